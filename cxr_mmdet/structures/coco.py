"""COCO annotation files and COCO results: one reader, one validator, one writer.

Files of a prepared folder are held to everything that training needs (``strict``); those of other projects only to
what scoring depends on.
"""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np

from cxr_mmdet.errors import DatasetError, counted
from cxr_mmdet.files import write_json
from cxr_mmdet.structures.boxes import xyxy_to_xywh
from cxr_mmdet.structures.coverage import coverage_problems

if TYPE_CHECKING:
    import os
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from numpy.typing import ArrayLike

    CocoDict = dict[str, Any]
    Detection = dict[str, Any]

IMAGE_KEYS = {
    "file_name": str,
    "width": int,
    "height": int,
    "image_id": str,
    "group": str,
    "original_width": int,
    "original_height": int,
}
"""Keys of an image of a prepared folder, beside its id."""
ANNOTATION_KEYS = {"area": (int, float), "iscrowd": int, "votes": int}
"""Keys of an annotation of a prepared folder, beside those of every COCO file."""
RESULT_KEYS = ("image_id", "category_id", "bbox", "score")

TOLERANCE_PX = 1e-3
"""Pixels by which rounding may move a box beyond its image, and the relative error of an area."""
SHOWN_PROBLEMS = 5
NEARLY_ALL = 0.95
"""Share of boxes that must look wrong before a hint mentions it."""

_NEGATIVE = "has a negative width or height; COCO results hold x_min, y_min, width and height"


def read_coco(path: str | os.PathLike[str], *, strict: bool = True) -> CocoDict:
    """Return the validated content of a COCO annotation file.

    Args:
        path: JSON file.
        strict: require a file of a prepared folder; otherwise any COCO detection file will do, also one without
            ``area`` and ``iscrowd``.

    Raises:
        DatasetError: the file is missing, not JSON, or refused by :func:`check_coco`.
    """
    path = Path(path)
    if strict and not path.exists():
        raise DatasetError(f"{path}: no such file; {_how_to_get(path)}.")
    coco: CocoDict = read_json(path)
    check_coco(coco, str(path), strict=strict)
    return coco


def sample_images(coco: CocoDict, count: int) -> CocoDict:
    """Return the file with ``count`` of its images, always the same ones; images with a box keep their share.

    Args:
        coco: a checked file.
        count: number of images, at least 1; all of them where the file holds no more.
    """
    with_boxes = {annotation["image_id"] for annotation in findings_of(coco)}
    images = coco["images"]
    abnormal, normal = ([i for i in images if (i["id"] in with_boxes) is side] for side in (True, False))
    shares = {True: min(len(abnormal), max(1, round(count * len(abnormal) / max(1, len(images)))))}
    shares[False] = count - shares[True]
    chosen: set[int] = set()
    for side, part in ((True, abnormal), (False, normal)):
        order = np.random.default_rng(0).permutation(len(part))[: shares[side]]
        chosen |= {part[place]["id"] for place in order}
    return {
        **coco,
        "images": [image for image in images if image["id"] in chosen],
        "annotations": [annotation for annotation in coco["annotations"] if annotation["image_id"] in chosen],
    }


def write_coco(path: str | os.PathLike[str], coco: CocoDict) -> None:
    """Write a COCO file of a prepared folder: same content, same bytes.

    Raises:
        DatasetError: ``coco`` is not valid; nothing is written.
    """
    check_coco(coco, str(path))
    write_json(path, coco)


def findings_of(coco: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the annotations of a COCO file that are findings; regions to ignore (``iscrowd`` 1) are none."""
    return [annotation for annotation in coco["annotations"] if not annotation.get("iscrowd")]


def read_detections(path: str | os.PathLike[str], ground_truth: CocoDict) -> list[Detection]:
    """Return the entries of a COCO results file with their four keys, in the order of the file.

    Args:
        path: JSON list of ``{"image_id", "category_id", "bbox": [x, y, width, height], "score"}``; other keys
            (such as masks) are dropped. An empty list is legal.
        ground_truth: COCO dict that holds the images and categories of the entries.

    Raises:
        DatasetError: the file is missing, not JSON, or refused by :func:`check_detections`.
    """
    detections = read_json(path)
    check_detections(detections, ground_truth, source=str(path))
    return [{key: entry[key] for key in RESULT_KEYS} for entry in detections]


def write_detections(path: str | os.PathLike[str], detections: Iterable[Detection]) -> None:
    """Write a COCO results file; the same detections give the same bytes in any order."""
    write_json(path, sort_detections({key: entry[key] for key in RESULT_KEYS} for entry in detections))


def sort_detections(detections: Iterable[Detection]) -> list[Detection]:
    """Return the detections by image, falling score, category and box.

    COCO ranks equal scores by the order of the list, so detections gathered by several processes get the mAP of a
    single process only after sorting.
    """
    return sorted(
        detections,
        key=lambda entry: (entry["image_id"], -entry["score"], entry["category_id"], tuple(entry["bbox"])),
    )


def detections_from_arrays(
    image_id: int, boxes_xyxy: ArrayLike, scores: ArrayLike, category_ids: Sequence[int] | ArrayLike
) -> list[Detection]:
    """Return one image's detections as COCO results, without boxes that have no extent.

    Detectors clip boxes to the image, which can leave nothing of a box that lay outside.

    Args:
        image_id: id of the image in the COCO file.
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


def check_coco(coco: Any, source: str | None = None, *, strict: bool = True) -> None:
    """Refuse a COCO dict that cannot be scored against or, if ``strict``, trained on.

    Args:
        coco: content of the JSON file.
        source: name used in error messages, usually the path.
        strict: see :func:`problems_of`.

    Raises:
        DatasetError: lists the first problems and counts the others.
    """
    problems = list(problems_of(coco, strict=strict))
    if problems:
        shown = "; ".join(problems[:SHOWN_PROBLEMS])
        more = f"; and {len(problems) - SHOWN_PROBLEMS} more" if len(problems) > SHOWN_PROBLEMS else ""
        remedy = " Build it with tools/prepare_data.py build." if strict else ""
        where = f"{source}: " if source is not None else ""
        raise DatasetError(f"{where}not a valid COCO file: {shown}{more}.{remedy}")


def problems_of(coco: Any, *, strict: bool = True) -> Iterator[str]:
    """Yield the problems of a COCO dict; entries that lack a key hide their other problems.

    Every file needs integer ids that occur once, category names that occur once, and boxes of four finite numbers with
    a positive width and height, of a listed image and category. A strict file also has category ids from 1 in label
    order, the keys of a prepared folder, boxes within their images, areas that equal width times height, and votes
    that agree with the readers.

    Args:
        coco: content of the JSON file.
        strict: require a file of a prepared folder.
    """
    if not isinstance(coco, dict):
        yield f"holds a {_json_type(coco)}, expected a COCO object with images, annotations and categories"
        return
    missing = [key for key in ("images", "annotations", "categories") if not isinstance(coco.get(key), list)]
    if missing:
        yield f"no list of {', '.join(missing)}"
        return
    if strict:
        yield from _strict_category_problems(coco["categories"])
    broken = [*_id_problems("image", coco["images"]), *_id_problems("annotation", coco["annotations"])]
    broken += _id_problems("category", coco["categories"])
    if strict and not broken:
        broken = [*_key_problems("image", coco["images"], IMAGE_KEYS)]
        broken += _key_problems("annotation", coco["annotations"], ANNOTATION_KEYS)
    yield from broken
    if broken:
        return
    yield from _category_name_problems(coco["categories"])
    if strict:
        yield from _strict_image_problems(coco["images"])
    images = {image["id"]: image for image in coco["images"]}
    category_ids = {category["id"] for category in coco["categories"]}
    present: dict[int, set[int]] = defaultdict(set)
    for annotation in coco["annotations"]:
        box_problem = _box_problem(annotation, need_extent=True)
        found = list(_owner_problems(annotation, images.keys(), category_ids))
        if not found and not annotation.get("iscrowd"):
            present[annotation["image_id"]].add(annotation["category_id"])
        found += [box_problem] if box_problem else []
        if strict:
            image = images.get(annotation["image_id"]) if _is_integer(annotation.get("image_id")) else None
            found += _strict_annotation_problems(annotation, image, box_is_sound=not box_problem)
        for problem in found:
            yield f"annotation {annotation['id']}: {problem}"
    for image in coco["images"]:
        yield from coverage_problems(image, category_ids, present.get(image["id"], set()))


def check_detections(detections: Any, ground_truth: CocoDict, *, source: str = "detections") -> None:
    """Refuse detections that are not COCO results for the images and classes of the ground truth.

    Args:
        detections: content of a COCO results file.
        ground_truth: COCO dict, already checked.
        source: name used in error messages, usually the path.

    Raises:
        DatasetError: not a list; or the first entry with an unknown image or category id, a box that is not four
            finite numbers or has a negative width or height, or a score that is not a number in 0…1.
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
    """Return a sentence for each oddity of legal detections."""
    empty = sum(min(entry["bbox"][2:]) == 0 for entry in detections)
    notes = []
    if empty:
        which = f"{empty:,} of {counted(len(detections), 'detection')}"
        notes.append(f"{which} without width or height; such boxes count as false positives, as in pycocotools.")
    return notes + hints_on_boxes(ground_truth, detections, "detections")


def hints_on_boxes(ground_truth: CocoDict, entries: Sequence[dict[str, Any]], what: str) -> list[str]:
    """Return hints where nearly all boxes look as if they were in another format than COCO's.

    Args:
        ground_truth: COCO dict, checked; boxes of images without a width and height are not compared with the image.
        entries: its annotations, or detections, checked.
        what: plural noun for them.
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
    """Refuse detections of unknown images or classes; nothing else is checked.

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


def read_json(path: str | os.PathLike[str]) -> Any:
    """Return the content of a JSON file, with or without a byte order mark.

    Raises:
        DatasetError: the file is missing, cannot be read, or is not JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise DatasetError(f"{path}: no such file.") from None
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read ({error.strerror}).") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path}: is not JSON ({error}).") from None


def _how_to_get(path: Path) -> str:
    """Return the remedy for a missing COCO file: another label set may be there, or no prepared folder at all."""
    split, _, labels = path.stem.partition("_")
    found = sorted(other.stem.removeprefix(f"{split}_") for other in path.parent.glob(f"{split}_*.json"))
    if found and labels:
        return (
            f"{path.parent.parent} holds the label sets {', '.join(found)}, not {labels}; choose a recipe for one of "
            "these, or build the folder again with tools/prepare_data.py build --force and --labels"
        )
    return (
        "make a prepared folder with tools/prepare_data.py build SRC OUT (tools/prepare_data.py phantom makes a SRC of "
        "synthetic radiographs), and name it: --data-root OUT for training and testing"
    )


def _id_problems(kind: str, entries: list[Any]) -> Iterator[str]:
    ids = []
    for index, entry in enumerate(entries):
        if not isinstance(entry, dict):
            yield f"{kind} number {index} is a {_json_type(entry)}, expected an object"
        elif not _is_integer(entry.get("id")):
            yield f"{kind} number {index} has the id {_with_type(entry.get('id'))}, expected an integer"
        else:
            ids.append(entry["id"])
    yield from _repeated(f"{kind} id", ids)


def _key_problems(kind: str, entries: list[dict[str, Any]], keys: Mapping[str, Any]) -> Iterator[str]:
    for entry in entries:
        wrong = [key for key, kind_of in keys.items() if not _is_a(entry.get(key), kind_of)]
        if wrong:
            yield f"{kind} {entry['id']} lacks or misspells {', '.join(wrong)}"


def _category_name_problems(categories: list[dict[str, Any]]) -> Iterator[str]:
    for category in categories:
        if not isinstance(category.get("name"), str):
            yield f"category {category['id']} has the name {category.get('name')!r}, expected text"
    yield from _repeated("category name", [repr(category.get("name")) for category in categories])


def _strict_category_problems(categories: list[Any]) -> Iterator[str]:
    if not categories:
        yield "no category"
    for number, category in enumerate(categories, start=1):
        if not isinstance(category, dict) or not _is_a(category.get("name"), str) or category.get("id") != number:
            yield f"category {number} is {category}, expected id {number} and a name (ids from 1 in label order)"


def _strict_image_problems(images: list[dict[str, Any]]) -> Iterator[str]:
    for key in ("file_name", "image_id"):
        yield from _repeated(key, (image[key] for image in images))
    for image in images:
        empty = [key for key in ("width", "height", "original_width", "original_height") if image[key] < 1]
        if empty:
            yield f"image {image['id']} ({image['file_name']}) has no {', '.join(empty)}"
        readers = image.get("readers", [])
        if not isinstance(readers, list) or len(set(map(str, readers))) != len(readers):
            yield f"image {image['id']} has readers {readers}, expected a list of distinct names"


def _owner_problems(entry: dict[str, Any], image_ids: Collection[int], category_ids: Collection[int]) -> Iterator[str]:
    """Yield problems of the image and category that an annotation or a detection names."""
    for key, known, group in (("image_id", image_ids, "images"), ("category_id", category_ids, "categories")):
        if not _is_integer(entry.get(key)):
            yield f"{key} is {_with_type(entry.get(key))}, expected an integer id of the {group}"
        elif entry[key] not in known:
            yield f"{key} {entry[key]!r} is not among the ground truth's {group}"


def _box_problem(entry: dict[str, Any], *, need_extent: bool) -> str | None:
    box = entry.get("bbox")
    where = f"bbox {box!r} of image {entry.get('image_id')}"
    if not isinstance(box, (list, tuple)) or len(box) != 4 or not all(map(_is_finite_number, box)):
        return f"{where} is not four finite numbers (x, y, width, height)"
    if need_extent and min(box[2:]) <= 0:
        return f"{where} has no extent; width and height must be positive"
    return f"{where} {_NEGATIVE}" if min(box[2:]) < 0 else None


def _strict_annotation_problems(
    annotation: dict[str, Any], image: dict[str, Any] | None, *, box_is_sound: bool
) -> Iterator[str]:
    """Yield problems of a prepared folder's own keys; ``image`` is the annotation's, None if it is not listed."""
    if annotation["iscrowd"] not in (0, 1):
        yield f"iscrowd is {annotation['iscrowd']}, expected 0, or 1 for a region to ignore"
    if box_is_sound:
        x, y, width, height = annotation["bbox"]
        if image and min(x, y, image["width"] - x - width, image["height"] - y - height) < -TOLERANCE_PX:
            yield f"bbox {annotation['bbox']} is beyond its image of {image['width']} x {image['height']}"
        elif not math.isclose(annotation["area"], width * height, rel_tol=TOLERANCE_PX, abs_tol=TOLERANCE_PX):
            yield f"area is {annotation['area']}, expected {width * height:g}"
    votes, readers = annotation["votes"], annotation.get("readers")
    read_by = image.get("readers") if image else None
    score = annotation.get("score", 1)
    if not _is_a(score, (int, float)) or not 0 < score <= 1:
        yield f"score is {score}, expected a number above 0 and at most 1"
    spread = annotation.get("corner_spread", [0, 0, 0, 0])
    if not isinstance(spread, list) or len(spread) != 4 or not all(_is_finite_number(s) and s >= 0 for s in spread):
        yield f"corner_spread is {spread}, expected four numbers from 0, of the left, upper, right and lower side"
    if votes < 1:
        yield f"votes is {votes}, expected at least 1"
    if readers is not None and (not isinstance(readers, list) or len(set(map(str, readers))) != votes):
        yield f"votes is {votes}, but its readers are {readers}"
    elif isinstance(read_by, list) and (votes > len(read_by) or not set(readers or ()).issubset(read_by)):
        yield f"votes is {votes}{f' of {readers}' if readers else ''}, but its image was read by {read_by}"


def _detection_problem(entry: Any, image_ids: set[int], category_ids: set[int]) -> str | None:
    if not isinstance(entry, dict):
        return f"a {_json_type(entry)}, expected an object with image_id, category_id, bbox and score"
    problem = next(_owner_problems(entry, image_ids, category_ids), None) or _box_problem(entry, need_extent=False)
    if problem:
        return problem
    score = entry.get("score")
    if not _is_finite_number(score) or not 0 <= score <= 1:
        return f"score {score!r} of image {entry['image_id']} is not a number in 0…1"
    return None


def _negative_boxes(detections: Sequence[Any]) -> int:
    boxes = [entry.get("bbox") for entry in detections if isinstance(entry, dict)]
    plain = [
        box for box in boxes if isinstance(box, (list, tuple)) and len(box) == 4 and all(map(_is_finite_number, box))
    ]
    return sum(min(box[2:]) < 0 for box in plain)


def _with_type(value: Any) -> str:
    """Return a value and its JSON type, for a message that expects an integer."""
    return "missing" if value is None else f"{value!r}, a {_json_type(value)}"


def _repeated(kind: str, values: Iterable[Any]) -> Iterator[str]:
    for value, count in Counter(values).items():
        if count > 1:
            yield f"{kind} {value} occurs {count} times"


def _is_a(value: Any, kind: Any) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


def _is_integer(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_finite_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _json_type(value: Any) -> str:
    names = {dict: "JSON object", list: "list", str: "string", bool: "truth value", type(None): "null"}
    return names.get(type(value), "number with a decimal point" if isinstance(value, float) else "number")
