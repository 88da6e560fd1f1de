"""Radiographs to compare models on: synthetic ones with known findings, and a user's own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cxr_mmdet.boxes import XYXY_COLUMNS, xyxy_to_xywh
from cxr_mmdet.errors import DatasetError
from cxr_mmdet.inference.sources import Item, find_items
from cxr_mmdet.labels import LABELS_14, NO_FINDING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from cxr_mmdet.evaluation.results import CocoDict

PHANTOMS = 6
_PHANTOM_SIZE = 512
_PHANTOM_SEED = 20


@dataclass(frozen=True)
class CheckSet:
    """Radiographs, and their ground truth if it is known; its images are numbered from 1 in their order."""

    name: str
    items: tuple[Item, ...]
    truth: CocoDict | None


def phantom_set(class_names: Sequence[str], folder: Path) -> CheckSet:
    """Return a few synthetic radiographs, written into ``folder``; with truth where all classes can be drawn."""
    from cxr_mmdet.annotations.table import read_table
    from cxr_mmdet.phantom import write_phantoms

    drawn = [name for name in class_names if name in LABELS_14]
    write_phantoms(
        folder,
        images=PHANTOMS,
        seed=_PHANTOM_SEED,
        size=_PHANTOM_SIZE,
        abnormal_share=0.8,
        readers=1,
        labels=drawn or LABELS_14,
    )
    items = tuple(find_items([str(folder / "train")]))
    if len(drawn) < len(class_names):
        return CheckSet("phantoms", items, None)
    rows = read_table(folder / "truth.csv")
    rows = rows[rows["class_name"] != NO_FINDING]
    numbers = {item.image_id: number for number, item in enumerate(items, 1)}
    boxes = xyxy_to_xywh(rows[XYXY_COLUMNS].to_numpy(float)).tolist()
    entries = zip(rows["image_id"], rows["class_name"], boxes, strict=True)
    annotations = [
        _annotation(index, numbers[image], class_names.index(name), box)
        for index, (image, name, box) in enumerate(entries, 1)
    ]
    return CheckSet("phantoms", items, _coco(len(items), class_names, annotations))


def user_set(path: Path, class_names: Sequence[str]) -> CheckSet:
    """Return a user's radiographs: a folder's or archive's without truth, or those of a prepared folder's COCO file.

    Raises:
        DatasetError: there is none, or the file is not COCO, or of other classes.
    """
    if path.suffix.lower() != ".json":
        return CheckSet(path.name, tuple(find_items([str(path)])), None)
    from cxr_mmdet.evaluation.results import read_ground_truth

    truth = read_ground_truth(path)
    names = [category["name"] for category in truth["categories"]]
    missing = [name for name in class_names if name not in names]
    if missing:
        raise DatasetError(f"{path}: has no category {missing[0]!r}, which the model finds; give its own label set.")
    images = path.parent.parent / "images"
    items, numbers = [], {}
    for number, image in enumerate(sorted(truth["images"], key=lambda image: image["id"]), 1):
        file = images / image["file_name"]
        if not file.is_file():
            raise DatasetError(f"{path}: its image {file} is missing; give the annotation file of a prepared folder.")
        items.append(Item(file.stem, file))
        numbers[image["id"]] = number
    label_of = {category["id"]: category["name"] for category in truth["categories"]}
    annotations = [
        {
            **entry,
            "image_id": numbers[entry["image_id"]],
            "category_id": class_names.index(label_of[entry["category_id"]]) + 1,
        }
        for entry in truth["annotations"]
        if label_of[entry["category_id"]] in class_names
    ]
    return CheckSet(path.parent.parent.name, tuple(items), _coco(len(items), class_names, annotations))


def _coco(images: int, class_names: Sequence[str], annotations: list[dict[str, object]]) -> CocoDict:
    return {
        "images": [{"id": number} for number in range(1, images + 1)],
        "categories": [{"id": number, "name": name} for number, name in enumerate(class_names, 1)],
        "annotations": annotations,
    }


def _annotation(index: int, image: int, label: int, bbox: list[float]) -> dict[str, object]:
    return {
        "id": index,
        "image_id": image,
        "category_id": label + 1,
        "bbox": bbox,
        "area": bbox[2] * bbox[3],
        "iscrowd": 0,
    }
