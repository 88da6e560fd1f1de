"""COCO ground truth and COCO results: read, checked entry by entry, written in one order."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np

from cxr_mmdet.errors import DatasetError
from cxr_mmdet.files import write_json
from cxr_mmdet.structures.boxes import xyxy_to_xywh

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Sequence

    from numpy.typing import ArrayLike

    CocoDict = dict[str, Any]
    Detection = dict[str, Any]

RESULT_KEYS = ("image_id", "category_id", "bbox", "score")

NEARLY_ALL = 0.95
"""The share of boxes that must look wrong before a hint says so."""

_NEGATIVE = "has a negative width or height; COCO results hold x_min, y_min, width and height"


def read_ground_truth(path: str | os.PathLike[str]) -> CocoDict:
    """Return the COCO annotation file as a dict, checked as far as scoring depends on it.

    Any COCO detection file will do, not only our own: ``area`` and ``iscrowd`` may be missing.

    Raises:
        DatasetError: no such file, not JSON, or what :func:`check_ground_truth` refuses.
    """
    ground_truth = _read_json(path)
    check_ground_truth(ground_truth, source=str(path))
    return ground_truth


def read_detections(path: str | os.PathLike[str], ground_truth: CocoDict) -> list[Detection]:
    """Return the entries of a COCO results file with their four keys, in the order of the file.

    Args:
        path: JSON list of ``{"image_id", "category_id", "bbox": [x, y, width, height], "score"}``; other keys
            (masks, for example) are left out of what is returned. An empty list is legal.
        ground_truth: COCO dict whose images and categories the entries must name.

    Raises:
        DatasetError: no such file, not JSON, or what :func:`check_detections` refuses.
    """
    detections = _read_json(path)
    check_detections(detections, ground_truth, source=str(path))
    return [{key: entry[key] for key in RESULT_KEYS} for entry in detections]


def write_detections(path: str | os.PathLike[str], detections: Iterable[Detection]) -> None:
    """Write a COCO results file; the same detections give the same bytes, whatever order they come in."""
    write_json(path, sort_detections({key: entry[key] for key in RESULT_KEYS} for entry in detections))


def sort_detections(detections: Iterable[Detection]) -> list[Detection]:
    """Return the detections by image, falling score, category and box.

    COCO breaks ties between equal scores by the order of the list, so detections that several processes gathered get
    the same mAP as one process's only after this.
    """
    return sorted(
        detections,
        key=lambda entry: (entry["image_id"], -entry["score"], entry["category_id"], tuple(entry["bbox"])),
    )


def detections_from_arrays(
    image_id: int, boxes_xyxy: ArrayLike, scores: ArrayLike, category_ids: Sequence[int] | ArrayLike
) -> list[Detection]:
    """Return one image's detections as COCO results entries, without those whose box has no extent.

    Detectors clip boxes to the image, which can leave nothing of one that lay outside; :func:`read_detections` refuses
    such a box.

    Args:
        image_id: the image's id in the COCO file.
        boxes_xyxy: (N, 4), absolute pixels of the prepared image.
        scores: (N,), 0…1.
        category_ids: (N,), ids (not indices) of the COCO file's categories.
    """
    boxes_xywh = xyxy_to_xywh(boxes_xyxy)
    rows = zip(boxes_xywh.tolist(), np.asarray(scores).tolist(), np.asarray(category_ids).tolist(), strict=True)
    return [
        {"image_id": int(image_id), "category_id": int(category_id), "bbox": box, "score": float(score)}
        for box, score, category_id in rows
        if box[2] > 0 and box[3] > 0
    ]


def check_ground_truth(ground_truth: Any, *, source: str = "ground truth") -> None:
    """Raise where a COCO dict cannot be scored against.

    Args:
        ground_truth: what a COCO annotation file holds.
        source: what messages call it, usually the path.

    Raises:
        DatasetError: no images, annotations or categories; an id that is missing, not an integer or taken twice; two
            categories of one name; an annotation whose image or category does not exist, or whose box is not four
            finite numbers with a positive width and height.
    """
    if not isinstance(ground_truth, dict):
        raise DatasetError(f"{source}: holds a {_json_type(ground_truth)}, expected a COCO object with images.")
    for key in ("images", "annotations", "categories"):
        if not isinstance(ground_truth.get(key), list):
            raise DatasetError(f"{source}: has no list '{key}'; is it a COCO annotation file?")
    image_ids = _unique_ids(ground_truth["images"], "image", source)
    category_ids = _unique_ids(ground_truth["categories"], "category", source)
    _unique_ids(ground_truth["annotations"], "annotation", source)
    names = Counter(category.get("name") for category in ground_truth["categories"])
    for name, count in names.items():
        if not isinstance(name, str) or count > 1:
            raise DatasetError(f"{source}: the category name {name!r} must be a string that occurs once.")
    for annotation in ground_truth["annotations"]:
        problem = _truth_problem(annotation, image_ids, category_ids)
        if problem:
            raise DatasetError(f"{source}, annotation {annotation['id']}: {problem}.")


def check_detections(detections: Any, ground_truth: CocoDict, *, source: str = "detections") -> None:
    """Raise at the first entry that is not a COCO detection of one of the ground truth's images and classes.

    Args:
        detections: what a COCO results file holds.
        ground_truth: COCO dict, already checked.
        source: what messages call the detections, usually the path.

    Raises:
        DatasetError: not a list; an unknown image or category id; a box that is not four finite numbers, or whose width
            or height is negative; a score that is not a number in 0…1.
    """
    if not isinstance(detections, list):
        raise DatasetError(
            f"{source}: holds a {_json_type(detections)}, expected a list of COCO results "
            "(image_id, category_id, bbox, score)."
        )
    image_ids = {image["id"] for image in ground_truth["images"]}
    category_ids = {category["id"] for category in ground_truth["categories"]}
    for index, entry in enumerate(detections):
        problem = _detection_problem(entry, image_ids, category_ids)
        if problem and problem.endswith(_NEGATIVE):
            problem += f" ({_negative_boxes(detections):,} of {len(detections):,} entries)"
        if problem:
            raise DatasetError(f"{source}, entry {index}: {problem}.")


def notes_on_detections(ground_truth: CocoDict, detections: Sequence[Detection]) -> list[str]:
    """Return what a user should know of detections that are legal but odd, a sentence each."""
    empty = sum(min(entry["bbox"][2:]) == 0 for entry in detections)
    notes = []
    if empty:
        which = f"{empty:,} of {len(detections):,} detections"
        notes.append(f"{which} have a box without width or height and count as false positives, as in pycocotools.")
    return notes + hints_on_boxes(ground_truth, detections, "detections")


def hints_on_boxes(ground_truth: CocoDict, entries: Sequence[dict[str, Any]], what: str) -> list[str]:
    """Return hints where nearly all boxes look as if they were given in another format than COCO's.

    Args:
        ground_truth: COCO dict, checked; images without a width and height are passed over where those matter.
        entries: its annotations, or detections, checked.
        what: the plural noun for them.
    """
    if not entries:
        return []
    expected = "expected are x_min, y_min, width and height in pixels of the image that the ground truth lists."
    boxes = np.array([entry["bbox"] for entry in entries], dtype=np.float64)
    tiny = (boxes[:, 2:] < 1).all(axis=1) & (boxes[:, 2:] > 0).all(axis=1)
    if tiny.mean() >= NEARLY_ALL:
        scaled = " They look normalised to 0…1;" if (boxes <= 1).all(axis=1).mean() >= NEARLY_ALL else ""
        return [
            f"{int(tiny.sum()):,} of {len(boxes):,} {what} are below a pixel.{scaled or ' Check the unit;'} {expected}"
        ]
    sizes = {image["id"]: (image.get("width"), image.get("height")) for image in ground_truth["images"]}
    sized = [_is_finite_number(sizes[entry["image_id"]][0]) for entry in entries]
    sized = [
        known and _is_finite_number(sizes[entry["image_id"]][1]) for known, entry in zip(sized, entries, strict=True)
    ]
    if not any(sized):
        return []
    boxes = boxes[sized]
    limits = np.array([sizes[entry["image_id"]] for entry, known in zip(entries, sized, strict=True) if known], float)
    low, high = boxes[:, :2], boxes[:, :2] + boxes[:, 2:]
    outside = ((low >= limits) | (high <= 0)).any(axis=1)
    if outside.mean() >= NEARLY_ALL:
        return [f"{int(outside.sum()):,} of {len(boxes):,} {what} lie outside their image; {expected}"]
    beyond = (high > limits + 1).any(axis=1)
    corners = ((boxes[:, 2:] > low) & (boxes[:, 2:] <= limits + 1)).all(axis=1)
    if beyond.mean() >= 0.5 and corners.mean() >= NEARLY_ALL:
        looks = (
            "and all fit as x_min, y_min, x_max, y_max" if corners.all() else "and look like x_min, y_min, x_max, y_max"
        )
        return [f"{int(beyond.sum()):,} of {len(boxes):,} {what} leave their image, {looks}; {expected}"]
    return []


def require_known_ids(ground_truth: CocoDict, detections: Sequence[Detection]) -> None:
    """Raise where a detection belongs to no image or class of the ground truth; nothing else is checked.

    Raises:
        DatasetError: names one such id.
    """
    for key, group in (("image_id", "images"), ("category_id", "categories")):
        known = {entry["id"] for entry in ground_truth[group]}
        unknown = {entry[key] for entry in detections} - known
        if unknown:
            raise DatasetError(
                f"detections: {key} {min(unknown, key=repr)!r} is not among the ground truth's {group}; "
                "do the detections belong to another file?"
            )


def _read_json(path: str | os.PathLike[str]) -> Any:
    try:
        return json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise DatasetError(f"{path}: no such file.") from None
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read ({error.strerror}).") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path}: is not JSON ({error}).") from None


def _unique_ids(entries: list[Any], kind: str, source: str) -> set[int]:
    ids: set[int] = set()
    for index, entry in enumerate(entries):
        entry_id = entry.get("id") if isinstance(entry, dict) else None
        if not _is_integer(entry_id):
            raise DatasetError(
                f"{source}: {kind} number {index} has the id {_with_type(entry_id)}, expected an integer."
            )
        if entry_id in ids:
            raise DatasetError(f"{source}: the {kind} id {entry_id} occurs twice; ids must be unique.")
        ids.add(entry_id)
    return ids


def _placement_problem(entry: dict[str, Any], image_ids: set[int], category_ids: set[int]) -> str | None:
    """Return what is wrong with an entry's image, category or box."""
    for key, known in (("image_id", image_ids), ("category_id", category_ids)):
        if not _is_integer(entry.get(key)):
            return f"{key} is {_with_type(entry.get(key))}, expected an integer id of the ground truth's"
        if entry[key] not in known:
            return f"{key} {entry[key]!r} is not among the ground truth's"
    box = entry.get("bbox")
    if not isinstance(box, list) or len(box) != 4 or not all(_is_finite_number(value) for value in box):
        return f"bbox {box!r} of image {entry['image_id']} is not four finite numbers (x, y, width, height)"
    return None


def _truth_problem(entry: dict[str, Any], image_ids: set[int], category_ids: set[int]) -> str | None:
    problem = _placement_problem(entry, image_ids, category_ids)
    if problem is None and min(entry["bbox"][2:]) <= 0:
        return f"bbox {entry['bbox']!r} of image {entry['image_id']} has no extent; width and height must be positive"
    return problem


def _detection_problem(entry: Any, image_ids: set[int], category_ids: set[int]) -> str | None:
    if not isinstance(entry, dict):
        return f"a {_json_type(entry)}, expected an object with image_id, category_id, bbox and score"
    problem = _placement_problem(entry, image_ids, category_ids)
    if problem:
        return problem
    if min(entry["bbox"][2:]) < 0:
        return f"bbox {entry['bbox']!r} of image {entry['image_id']} {_NEGATIVE}"
    score = entry.get("score")
    if not _is_finite_number(score) or not 0 <= score <= 1:
        return f"score {score!r} of image {entry['image_id']} is not a number in 0…1"
    return None


def _negative_boxes(detections: Sequence[Any]) -> int:
    boxes = [entry.get("bbox") for entry in detections if isinstance(entry, dict)]
    plain = [box for box in boxes if isinstance(box, list) and len(box) == 4 and all(map(_is_finite_number, box))]
    return sum(min(box[2:]) < 0 for box in plain)


def _with_type(value: Any) -> str:
    """Return a value and what it is, where it should be an integer."""
    return "missing" if value is None else f"{value!r}, a {_json_type(value)}"


def _is_integer(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_finite_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _json_type(value: Any) -> str:
    names = {dict: "JSON object", list: "list", str: "string", bool: "truth value", type(None): "null"}
    return names.get(type(value), "number with a decimal point" if isinstance(value, float) else "number")
