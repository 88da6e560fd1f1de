"""ultralytics' YOLO as a contestant of the quality benchmark, in a Python environment of the user's own.

ultralytics is under the AGPL: it is neither a dependency of this project nor imported by it. A script that stands alone
trains in another process, and only its detections are read.
"""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cxr_mmdet.errors import CxrError, UsageError
from cxr_mmdet.files import write_json
from cxr_mmdet.structures.coco import read_coco, sort_detections, write_detections

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cxr_mmdet.structures.coco import CocoDict

NAME = re.compile(r"yolo(v?\d+)[a-z]")
"""Names of contestants that are ultralytics', such as ``yolo11n``."""

_SCRIPT = Path(__file__).with_name("yolo_train.py")


@dataclass(frozen=True)
class YoloSettings:
    """Environment and settings of YOLO trainings.

    Attributes:
        python: interpreter of an environment with ultralytics.
        size: longer side of the images in pixels.
        batch_size: images per step.
        threads: of torch.
        options: further arguments of ultralytics' ``train``.
    """

    python: Path
    size: int
    batch_size: int
    threads: int
    options: Mapping[str, Any] = field(default_factory=dict)


def train_yolo(
    name: str,
    settings: YoloSettings,
    data_root: Path,
    ann_files: tuple[str, str],
    out: Path,
    *,
    iterations: int,
    seed: int,
    stop_after: int | None = None,
) -> list[float]:
    """Train from random weights, write ``detections.json``, and return the processor seconds of each iteration.

    Args:
        name: such as ``yolo11n``.
        settings: environment and settings.
        data_root: the prepared folder.
        ann_files: COCO files in it, to train and to validate on.
        out: folder of the run.
        iterations: steps of one batch each, rounded to whole epochs.
        seed: of weights and data.
        stop_after: iterations after which the training is broken off, without detections.

    Raises:
        CxrError: the process failed.
    """
    train, val = (read_coco(data_root / file) for file in ann_files)
    out.mkdir(parents=True, exist_ok=True)
    for split, coco in (("train", train), ("val", val)):
        _write_split(out / "data", split, coco, data_root / "images")
    names = [category["name"] for category in train["categories"]]
    data = {"path": str((out / "data").resolve()), "train": "train/images", "val": "val/images", "names": names}
    write_json(out / "data" / "data.yaml", data)  # JSON is YAML
    spec: dict[str, Any] = {
        "model": f"{name}.yaml",
        "data": str((out / "data" / "data.yaml").resolve()),
        "iterations": iterations,
        "batches_per_epoch": math.ceil(len(train["images"]) / settings.batch_size),
        "images": [str((data_root / "images" / image["file_name"]).resolve()) for image in val["images"]],
        "out": str(out.resolve()),
        "threads": settings.threads,
        "train": {
            "imgsz": settings.size,
            "batch": settings.batch_size,
            "nbs": settings.batch_size,  # a step of the optimizer per batch, as ours
            "workers": 0,  # in the process itself, so that the clock sees it
            "seed": seed,
            "pretrained": False,
            "val": False,
            "plots": False,
            "verbose": False,
            **settings.options,
        },
    }
    if stop_after is not None:
        spec["stop_after"] = stop_after
    write_json(out / "spec.json", spec, indent=2)
    _run(settings, out)
    seconds = json.loads((out / "clock.json").read_text(encoding="utf-8"))["iterations"]
    if stop_after is None:
        boxes = json.loads((out / "boxes.json").read_text(encoding="utf-8"))
        write_detections(out / "detections.json", as_detections(boxes, val))
    return [float(value) for value in seconds]


def as_detections(boxes: list[list[list[float]]], coco: CocoDict) -> list[dict[str, Any]]:
    """Return what the script found as COCO results.

    Args:
        boxes: per image in file order, (N, 6) of x1, y1, x2, y2, score and class from 0.
        coco: the validation images.
    """
    ids = [category["id"] for category in coco["categories"]]
    return sort_detections(
        {
            "image_id": image["id"],
            "category_id": ids[int(label)],
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "score": score,
        }
        for image, found in zip(coco["images"], boxes, strict=True)
        for x1, y1, x2, y2, score, label in found
        if x2 > x1 and y2 > y1
    )


def _write_split(root: Path, split: str, coco: CocoDict, images: Path) -> None:
    """Write a split as ultralytics reads it: links to the images, and a text file per image with its boxes."""
    numbers = {category["id"]: number for number, category in enumerate(coco["categories"])}
    for kind in ("images", "labels"):
        (root / split / kind).mkdir(parents=True, exist_ok=True)
    lines: dict[int, list[str]] = {image["id"]: [] for image in coco["images"]}
    sizes = {image["id"]: (image["width"], image["height"]) for image in coco["images"]}
    for box in coco["annotations"]:
        x, y, w, h = box["bbox"]
        width, height = sizes[box["image_id"]]
        values = ((x + w / 2) / width, (y + h / 2) / height, w / width, h / height)
        row = " ".join(f"{value:.6f}" for value in values)
        lines[box["image_id"]].append(f"{numbers[box['category_id']]} {row}\n")
    for image in coco["images"]:
        name = Path(image["file_name"])
        (root / split / "images" / name.name).symlink_to((images / name).resolve())
        text = "".join(lines[image["id"]])
        (root / split / "labels" / f"{name.stem}.txt").write_text(text, encoding="utf-8")


def _run(settings: YoloSettings, out: Path) -> None:
    environment = os.environ | {"OMP_NUM_THREADS": str(settings.threads), "YOLO_CONFIG_DIR": str(out.resolve())}
    environment.pop("PYTHONPATH", None)
    command = [str(settings.python), str(_SCRIPT), str(out / "spec.json")]
    with (out / "log.txt").open("wb") as log:
        try:
            code = subprocess.run(command, env=environment, stdout=log, stderr=log, check=False).returncode
        except OSError as error:
            raise UsageError(f"--yolo-python {settings.python}: cannot be run ({error}).") from None
    if code:
        raise CxrError(
            f"{out / 'log.txt'}: ultralytics ended with exit code {code}; expected 0. The last lines of this file say "
            "why; --yolo-python must name the Python of an environment with ultralytics."
        )
