"""The machine and the versions behind a figure, in words that fit into documentation."""

from __future__ import annotations

import os
import platform
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_DISTRIBUTIONS = {
    "torch": ("torch",),
    "mmdet": ("onedl-mmdetection", "mmdet"),
    "mmcv": ("onedl-mmcv", "mmcv", "mmcv-lite"),
    "mmengine": ("onedl-mmengine", "mmengine"),
    "OpenCV": ("opencv-python", "opencv-python-headless"),
    "kornia-rs": ("kornia-rs",),
    "pandas": ("pandas",),
    "ensemble-boxes": ("ensemble-boxes",),
    "hotcoco": ("hotcoco",),
    "pycocotools": ("pycocotools",),
    "faster-coco-eval": ("faster-coco-eval",),
    "imagecodecs": ("imagecodecs",),
    "pydicom": ("pydicom",),
    "Pillow": ("pillow",),
}


def describe_machine() -> dict[str, str]:
    """Return processor, cores, Python and the versions of what the benchmarks run on."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "processor": _processor(),
        "cores": str(cores),
        "system": f"{platform.system()} {platform.machine()}",
        "Python": platform.python_version(),
        **{name: found for name in _DISTRIBUTIONS if (found := _version(name))},
    }


def _processor() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _version(name: str) -> str | None:
    for distribution in _DISTRIBUTIONS[name]:
        with suppress(PackageNotFoundError):
            return f"{distribution} {version(distribution)}"
    return None
