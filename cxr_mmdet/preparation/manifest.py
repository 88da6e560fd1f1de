"""``manifest.json``: what a prepared folder was made from, how, and what it holds."""

from __future__ import annotations

import hashlib
import platform
from dataclasses import asdict
from importlib import metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from cxr_mmdet.preparation.label_sets import LabelSetCounts

MANIFEST_NAME = "manifest.json"

PACKAGES = (
    "cxr-mmdet",
    "imagecodecs",
    "imagehash",
    "iterative-stratification",
    "numpy",
    "opencv-python",
    "pandas",
    "pillow",
    "pydicom",
    "pylibjpeg-openjpeg",
)
"""What the prepared pictures and boxes depend on."""


def describe_inputs(table: Path, sources: Mapping[str, Path]) -> dict[str, Any]:
    """Return what tells these inputs from others, without their place on this machine.

    The radiographs are told apart by name and size: hashing the contents of a whole data set would read it once more.
    """
    listing = "".join(f"{path.name}\0{path.stat().st_size}\n" for _, path in sorted(sources.items()))
    return {
        "table": table.name,
        "table_sha256": hashlib.sha256(table.read_bytes()).hexdigest(),
        "radiographs": len(sources),
        "radiographs_sha256_of_names_and_sizes": hashlib.sha256(listing.encode()).hexdigest(),
    }


def describe_packages() -> dict[str, str | None]:
    """Return the versions of Python and of the packages that matter; None where one is not installed by that name."""
    versions: dict[str, str | None] = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    return versions


def describe_label_set(counts: LabelSetCounts) -> dict[str, Any]:
    """Return the classes of a label set and what its splits hold."""
    return {
        "labels": list(counts.label_set.labels),
        "minority": list(counts.label_set.minority),
        "merged": {label: list(classes) for label, classes in counts.label_set.merged.items()},
        "train": asdict(counts.train),
        "train_augmented": asdict(counts.train_augmented),
        "val": asdict(counts.val),
    }
