"""Each image's probability of being abnormal, read from what a classifier or our own prediction wrote."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cxr_mmdet.errors import DatasetError
from cxr_mmdet.files import plain_cell, write_json

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from cxr_mmdet.evaluation.results import CocoDict

COLUMNS = ["image_id", "p_abnormal"]


def p_abnormal_path(detections: Path) -> Path:
    """Return the file that holds a gate's probabilities beside a file of detections; it is there if there was a gate.

    It is called ``detections.p_abnormal.json`` for ``detections.json``.
    """
    return detections.with_suffix(".p_abnormal.json")


def write_p_abnormal(detections: Path, p_abnormal: Mapping[str, float] | None) -> None:
    """Write an object image_id → p beside a file of detections, or remove what an earlier run left; None: no gate."""
    path = p_abnormal_path(detections)
    if p_abnormal is None:
        path.unlink(missing_ok=True)
    else:
        write_json(path, dict(p_abnormal), indent=1)


def read_p_abnormal(path: Path, ground_truth: CocoDict) -> NDArray[np.float64]:
    """Return (images,) probabilities in the order of the ground truth's images.

    Args:
        path: a CSV file with the columns image_id and p_abnormal; or JSON: an object image_id → p, or a list of objects
            with image_id and p_abnormal, or ``findings.json``. Images the ground truth lacks are passed over.
        ground_truth: COCO dict. Its images go by their ``image_id``, else by the name of their file without suffix,
            else by their number.

    Raises:
        DatasetError: the file cannot be read, names an image twice, lacks one, or holds what is not in 0…1.
    """
    given: dict[str, float] = {}
    for name, value in _entries(path):
        if name in given:
            raise DatasetError(f"{path}: names image {name!r} twice.")
        given[name] = _probability(path, name, value)
    names = [image_name(image) for image in ground_truth["images"]]
    missing = [name for name in names if name not in given]
    if missing:
        raise DatasetError(
            f"{path}: lacks p_abnormal of {len(missing)} of {len(names)} images, {missing[0]!r} for one."
        )
    return np.array([given[name] for name in names], dtype=np.float64)


def image_name(image: Mapping[str, Any]) -> str:
    """Return what an image of a COCO file goes by; see :func:`read_p_abnormal`."""
    if "image_id" in image:
        return str(image["image_id"])
    return Path(image["file_name"]).stem if isinstance(image.get("file_name"), str) else str(image["id"])


def _entries(path: Path) -> Iterator[tuple[str, Any]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read ({error.strerror}).") from None
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path}: is not text ({error}).") from None
    return _csv_entries(path, text) if path.suffix.lower() == ".csv" else _json_entries(path, text)


def _csv_entries(path: Path, text: str) -> Iterator[tuple[str, Any]]:
    reader = csv.DictReader(text.splitlines())
    if not set(COLUMNS) <= set(reader.fieldnames or ()):
        raise DatasetError(f"{path}: has the columns {reader.fieldnames}, expected {' and '.join(COLUMNS)}.")
    for row in reader:
        yield plain_cell(row["image_id"]), row["p_abnormal"]


def _json_entries(path: Path, text: str) -> Iterator[tuple[str, Any]]:
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise DatasetError(f"{path}: is not JSON ({error}).") from None
    if isinstance(content, dict) and isinstance(content.get("images"), list):
        content = content["images"]  # findings.json
    if isinstance(content, dict):
        yield from content.items()
        return
    if not isinstance(content, list):
        raise DatasetError(f"{path}: holds neither an object image_id → p_abnormal nor a list of findings.")
    for place, entry in enumerate(content):
        if not isinstance(entry, dict) or not set(COLUMNS) <= set(entry):
            raise DatasetError(f"{path}, entry {place}: is not an object with {' and '.join(COLUMNS)}.")
        yield str(entry["image_id"]), entry["p_abnormal"]


def _probability(path: Path, name: str, value: Any) -> float:
    try:
        number = float("nan") if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = float("nan")
    if not 0 <= number <= 1:
        raise DatasetError(f"{path}: p_abnormal {value!r} of image {name!r} is not a number in 0…1.")
    return number
