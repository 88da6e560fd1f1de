"""How many images and boxes of each class a split holds, before and after minority augmentation."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.table import Table

from cxr_mmdet.annotations.coco import findings_of

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

MINORITY_COPIES = 3
"""An image that holds a minority class is trained on as it is, flipped, and rotated by 90°."""


@dataclass(frozen=True)
class ClassCounts:
    """Of one class: the images that hold it and its boxes."""

    images: int
    boxes: int


@dataclass(frozen=True)
class SplitCounts:
    """Of one split; ``by_class`` is in label order and also names classes that do not occur."""

    images: int
    images_without_boxes: int
    boxes: int
    by_class: Mapping[str, ClassCounts]


def count_split(coco: Mapping[str, Any], minority: Collection[str] = ()) -> SplitCounts:
    """Return the counts of a COCO file, an image that holds a class of ``minority`` counted with its virtual copies."""
    names = {category["id"]: category["name"] for category in coco["categories"]}
    held: dict[int, list[str]] = defaultdict(list)
    for annotation in findings_of(coco):
        held[annotation["image_id"]].append(names[annotation["category_id"]])
    copies = {image: MINORITY_COPIES if not set(minority).isdisjoint(held[image]) else 1 for image in held}
    return SplitCounts(
        images=sum(copies.get(image["id"], 1) for image in coco["images"]),
        images_without_boxes=len(coco["images"]) - len(held),
        boxes=sum(copies[image] * len(classes) for image, classes in held.items()),
        by_class={
            name: ClassCounts(
                images=sum(copies[image] for image, classes in held.items() if name in classes),
                boxes=sum(copies[image] * classes.count(name) for image, classes in held.items()),
            )
            for name in names.values()
        },
    )


def counts_table(title: str, columns: Mapping[str, SplitCounts]) -> Table:
    """Return the table of images and boxes: a row for each class, two columns for each entry of ``columns``."""
    table = Table(title=title, title_justify="left")
    table.add_column("class", no_wrap=True)
    for name in columns:
        table.add_column(f"{name}\nimages", justify="right")
        table.add_column("\nboxes", justify="right")
    for label in next(iter(columns.values())).by_class:
        per_class = [counts.by_class[label] for counts in columns.values()]
        table.add_row(label, *_cells([(counts.images, counts.boxes) for counts in per_class]))
    table.add_section()
    table.add_row("no box", *_cells([(counts.images_without_boxes, 0) for counts in columns.values()]))
    table.add_row("all", *_cells([(counts.images, counts.boxes) for counts in columns.values()]), style="bold")
    return table


def _cells(pairs: list[tuple[int, int]]) -> list[str]:
    return [f"{number:,}" for pair in pairs for number in pair]
