"""The COCO file of one split: build, validate, read, write."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cxr_mmdet.annotations.table import is_region
from cxr_mmdet.errors import DatasetError
from cxr_mmdet.files import write_json
from cxr_mmdet.structures.boxes import XYXY_COLUMNS, xyxy_to_xywh

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    import pandas as pd

IMAGE_KEYS = {
    "id": int,
    "file_name": str,
    "width": int,
    "height": int,
    "image_id": str,
    "group": str,
    "original_width": int,
    "original_height": int,
}
ANNOTATION_KEYS = {
    "id": int,
    "image_id": int,
    "category_id": int,
    "bbox": list,
    "area": (int, float),
    "iscrowd": int,
    "votes": int,
}
DECIMALS = 4
"""Coordinates are rounded to this many decimals of a pixel: same input, same bytes on every platform."""
TOLERANCE_PX = 1e-3
"""How far rounding may carry a box beyond the image, or an area from width times height (relative)."""
SHOWN_PROBLEMS = 5


@dataclass(frozen=True)
class CocoImage:
    """A prepared radiograph as the COCO file lists it.

    Attributes:
        image_id: the readers' table's name of it.
        file_name: relative to the folder of pictures.
        group: what must not stand on both sides of a split: the patient, else the image itself.
        readers: everybody who read it, also those who drew nothing; None where that is not known.
    """

    image_id: str
    file_name: str
    width: int
    height: int
    group: str
    original_width: int
    original_height: int
    readers: tuple[str, ...] | None = None


def build_coco(images: Iterable[CocoImage], boxes: pd.DataFrame, labels: Sequence[str]) -> dict[str, Any]:
    """Return the COCO file of these images, validated; ids run from 1, whatever the order of the input.

    Args:
        images: all images of the split, also those without a box.
        boxes: image_id, class_name, x_min, y_min, x_max, y_max in prepared-image pixels, votes and, where known, the
            readers behind each box and iscrowd, True for regions to ignore. Rows of other images or of classes outside
            ``labels`` are left out; boxes are clipped to the image.
        labels: the class names; their order is the categories' order.

    Raises:
        DatasetError: the result is not a file to train on, for instance since a box lies outside its image.
    """
    ordered = sorted(images, key=lambda image: image.image_id)
    coco = {
        "images": [_image_entry(number, image) for number, image in enumerate(ordered, start=1)],
        "annotations": _annotation_entries(ordered, boxes, labels),
        "categories": [{"id": number, "name": name} for number, name in enumerate(labels, start=1)],
    }
    validate(coco)
    return coco


def validate(coco: Any, source: str | Path | None = None) -> None:
    """Refuse a COCO file that cannot be trained on or evaluated.

    Args:
        coco: what the JSON file holds.
        source: its path, for the message.

    Raises:
        DatasetError: with everything that is wrong (the first few of each kind).
    """
    problems = list(problems_of(coco))
    if problems:
        shown = "; ".join(problems[:SHOWN_PROBLEMS])
        more = f"; and {len(problems) - SHOWN_PROBLEMS} more" if len(problems) > SHOWN_PROBLEMS else ""
        where = f"{source}: " if source is not None else ""
        raise DatasetError(f"{where}not a valid COCO file: {shown}{more}. Build it with tools/prepare_data.py build.")


def read_coco(path: str | Path) -> dict[str, Any]:
    """Return the validated COCO file at ``path``.

    Raises:
        DatasetError: the file is missing, not JSON, or not valid.
    """
    try:
        coco = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DatasetError(f"{path}: no such file; {_how_to_get(Path(path))}.") from None
    except (IsADirectoryError, PermissionError) as error:
        raise DatasetError(f"{path}: cannot be read ({error.strerror}); expected a COCO file.") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path}: is not JSON ({error}); build it with tools/prepare_data.py build.") from None
    validate(coco, path)
    return coco


def findings_of(coco: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the annotations of a COCO file that are findings; regions to ignore (``iscrowd`` 1) are none."""
    return [annotation for annotation in coco["annotations"] if not annotation.get("iscrowd")]


def write_coco(path: str | Path, coco: dict[str, Any]) -> None:
    """Write a validated COCO file: same content, same bytes.

    Raises:
        DatasetError: ``coco`` is not valid; nothing is written.
    """
    validate(coco, path)
    write_json(path, coco)


def _how_to_get(path: Path) -> str:
    """Return what to do about a missing COCO file: another label set may be there, or no prepared folder at all."""
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


def _image_entry(number: int, image: CocoImage) -> dict[str, Any]:
    return {
        "id": number,
        "file_name": image.file_name,
        "width": image.width,
        "height": image.height,
        "image_id": image.image_id,
        "group": image.group,
        "original_width": image.original_width,
        "original_height": image.original_height,
        **({} if image.readers is None else {"readers": list(image.readers)}),
    }


def _annotation_entries(
    images: Sequence[CocoImage], boxes: pd.DataFrame, labels: Sequence[str]
) -> list[dict[str, Any]]:
    number_of = {image.image_id: number for number, image in enumerate(images)}
    category_of = {name: number for number, name in enumerate(labels, start=1)}
    kept = boxes[boxes["class_name"].isin(labels) & boxes["image_id"].isin(number_of)]
    kept = kept.assign(image=kept["image_id"].map(number_of), category=kept["class_name"].map(category_of))
    kept = kept.sort_values(["image", "category", *XYXY_COLUMNS], kind="stable")
    sizes_whwh = np.array([(image.width, image.height) * 2 for image in images]).reshape(-1, 4)
    clipped = np.clip(kept[XYXY_COLUMNS].to_numpy(np.float64), 0, sizes_whwh[kept["image"].to_numpy(np.int64)])
    readers = [{"readers": list(names)} for names in kept["readers"]] if "readers" in kept else [{}] * len(kept)
    regions = is_region(kept).astype(int).tolist()
    return [
        {
            "id": number,
            "image_id": image + 1,
            "category_id": category,
            "bbox": bbox_xywh,
            "area": round(bbox_xywh[2] * bbox_xywh[3], DECIMALS),
            "iscrowd": region,
            "votes": votes,
            **names,
        }
        for number, (image, category, votes, region, bbox_xywh, names) in enumerate(
            zip(
                kept["image"].tolist(),
                kept["category"].tolist(),
                kept["votes"].tolist(),
                regions,
                np.round(xyxy_to_xywh(clipped), DECIMALS).tolist(),
                readers,
                strict=True,
            ),
            start=1,
        )
    ]


def problems_of(coco: Any) -> Iterator[str]:
    """Yield what is wrong with a COCO file; entries that lack a key hide what else is wrong with them."""
    if not isinstance(coco, dict):
        yield f"holds {type(coco).__name__}, expected images, annotations and categories"
        return
    missing = [key for key in ("images", "annotations", "categories") if not isinstance(coco.get(key), list)]
    if missing:
        yield f"no list of {', '.join(missing)}"
        return
    yield from _category_problems(coco["categories"])
    entries = [*_entry_problems("image", coco["images"], IMAGE_KEYS)]
    entries += _entry_problems("annotation", coco["annotations"], ANNOTATION_KEYS)
    if entries:
        yield from entries
        return
    yield from _image_problems(coco["images"])
    sizes_wh = {image["id"]: (image["width"], image["height"]) for image in coco["images"]}
    readers = {image["id"]: image.get("readers") for image in coco["images"]}
    categories = {category["id"] for category in coco["categories"] if isinstance(category, dict) and "id" in category}
    yield from _repeated("annotation id", (annotation["id"] for annotation in coco["annotations"]))
    for annotation in coco["annotations"]:
        yield from _annotation_problems(annotation, sizes_wh, categories)
        yield from _votes_problems(annotation, readers.get(annotation["image_id"]))


def _entry_problems(kind: str, entries: list[Any], keys: dict[str, Any]) -> Iterator[str]:
    for position, entry in enumerate(entries):
        if not isinstance(entry, dict):
            yield f"{kind} at position {position} is {type(entry).__name__}, expected an object"
            continue
        wrong = [key for key, kind_of in keys.items() if not _is_a(entry.get(key), kind_of)]
        if wrong:
            yield f"{kind} {entry.get('id', f'at position {position}')} lacks or misspells {', '.join(wrong)}"


def _is_a(value: Any, kind: Any) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


def _category_problems(categories: list[Any]) -> Iterator[str]:
    if not categories:
        yield "no category"
    for number, category in enumerate(categories, start=1):
        if not isinstance(category, dict) or not _is_a(category.get("name"), str) or category.get("id") != number:
            yield f"category {number} is {category}, expected id {number} and a name (ids from 1 in label order)"
    names = [category.get("name") for category in categories if isinstance(category, dict)]
    yield from _repeated("category name", (name for name in names if isinstance(name, str)))


def _image_problems(images: list[dict[str, Any]]) -> Iterator[str]:
    for key, kind in (("id", "image id"), ("file_name", "file_name"), ("image_id", "image_id")):
        yield from _repeated(kind, (image[key] for image in images))
    for image in images:
        empty = [k for k in ("width", "height", "original_width", "original_height") if image[k] < 1]
        if empty:
            yield f"image {image['id']} ({image['file_name']}) has no {', '.join(empty)}"
        readers = image.get("readers", [])
        if not isinstance(readers, list) or len(set(map(str, readers))) != len(readers):
            yield f"image {image['id']} has readers {readers}, expected a list of distinct names"


def _annotation_problems(
    annotation: dict[str, Any], sizes_wh: dict[int, tuple[int, int]], categories: set[int]
) -> Iterator[str]:
    where = f"annotation {annotation['id']}"
    if annotation["category_id"] not in categories:
        yield f"{where} has category {annotation['category_id']}, which is not listed"
    if annotation["iscrowd"] not in (0, 1):
        yield f"{where} has iscrowd {annotation['iscrowd']}, expected 0, or 1 for a region to ignore"
    if annotation["image_id"] not in sizes_wh:
        yield f"{where} belongs to image {annotation['image_id']}, which is not listed"
        return
    yield from _bbox_problems(where, annotation["bbox"], annotation["area"], sizes_wh[annotation["image_id"]])


def _votes_problems(annotation: dict[str, Any], read_by: Any) -> Iterator[str]:
    """Yield what is wrong with a box's votes; ``read_by`` are the readers of its image, where it names them."""
    where, votes, readers = f"annotation {annotation['id']}", annotation["votes"], annotation.get("readers")
    if votes < 1:
        yield f"{where} has {votes} votes, expected at least 1"
    if readers is not None and (not isinstance(readers, list) or len(set(map(str, readers))) != votes):
        yield f"{where} has {votes} votes, but its readers are {readers}"
    elif isinstance(read_by, list) and (votes > len(read_by) or not set(readers or ()).issubset(read_by)):
        yield f"{where} has {votes} votes{f' of {readers}' if readers else ''}, but its image was read by {read_by}"


def _bbox_problems(where: str, bbox_xywh: list[Any], area: float, size_wh: tuple[int, int]) -> Iterator[str]:
    if len(bbox_xywh) != 4 or not all(_is_a(value, (int, float)) and math.isfinite(value) for value in bbox_xywh):
        yield f"{where} has bbox {bbox_xywh}, expected four finite numbers"
        return
    x, y, width, height = bbox_xywh
    if width <= 0 or height <= 0:
        yield f"{where} has bbox {bbox_xywh}, expected width and height above 0"
    elif min(x, y, size_wh[0] - x - width, size_wh[1] - y - height) < -TOLERANCE_PX:
        yield f"{where} has bbox {bbox_xywh}, beyond its image of {size_wh[0]} x {size_wh[1]}"
    elif not math.isclose(area, width * height, rel_tol=TOLERANCE_PX, abs_tol=TOLERANCE_PX):
        yield f"{where} has area {area}, expected {width * height:g}"


def _repeated(kind: str, values: Iterable[Any]) -> Iterator[str]:
    for value, count in Counter(values).items():
        if count > 1:
            yield f"{kind} {value} occurs {count} times"
