"""Numbers in the report of a prepared folder, for one label set: classes, readers, co-occurrence, sizes, places."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from cxr_mmdet.structures.coco import findings_of
from cxr_mmdet.structures.labels import NO_FINDING

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from numpy.typing import NDArray

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
SMALLEST = 1e-4
"""Share of an image's area at which the scale of sizes begins."""


@dataclass(frozen=True)
class ClassRow:
    """One class; ``votes`` maps how many readers stand behind a box to how many boxes do so.

    ``absent`` counts the images on which it was looked for and not found, ``unknown`` those on which it was not looked
    for; both 0 where every class was looked for on every image.
    """

    label: int
    name: str
    readers_boxes: int
    boxes: int
    votes: dict[int, int]
    train_images: int
    train_boxes: int
    val_images: int
    val_boxes: int
    absent: int = 0
    unknown: int = 0

    @property
    def val_share(self) -> float | None:
        """The share of the images with this class that validate."""
        images = self.train_images + self.val_images
        return self.val_images / images if images else None


@dataclass(frozen=True)
class ReaderRow:
    """One reader: images read, images without a box of the labels, and boxes of each class."""

    name: str
    images: int
    without_box: int
    boxes: tuple[int, ...]

    @property
    def total(self) -> int:
        """All boxes."""
        return sum(self.boxes)


@dataclass(frozen=True)
class SizeRow:
    """Share of the image that a class's boxes cover: :data:`QUANTILES` of it, 0…1."""

    label: int
    name: str
    quantiles: tuple[float, ...]

    @property
    def positions(self) -> tuple[float, ...]:
        """The quantiles on a logarithmic scale, per cent of the way from :data:`SMALLEST` to the whole image."""
        places = np.log(np.maximum(self.quantiles, SMALLEST) / SMALLEST) / -np.log(SMALLEST)
        return tuple((100 * places).round(2).tolist())


@dataclass(frozen=True)
class BoxColumns:
    """All boxes of a label set as columns: class, image (from 0), place in the image (0…1 on both axes), votes."""

    classes: NDArray[np.int64]
    images: NDArray[np.int64]
    relative_xyxy: NDArray[np.float64]
    votes: NDArray[np.int64]

    @classmethod
    def of(cls, cocos: Sequence[dict[str, Any]]) -> BoxColumns:
        """Return the boxes of COCO files of the same classes, one after the other."""
        classes, images, boxes, votes = [], [], [], []
        offset = 0
        for coco in cocos:
            sizes = {image["id"]: (image["width"], image["height"]) for image in coco["images"]}
            for annotation in findings_of(coco):
                x, y, width, height = annotation["bbox"]
                image_width, image_height = sizes[annotation["image_id"]]
                classes.append(annotation["category_id"] - 1)
                images.append(annotation["image_id"] - 1 + offset)
                boxes.append(
                    (x / image_width, y / image_height, (x + width) / image_width, (y + height) / image_height)
                )
                votes.append(annotation["votes"])
            offset += len(coco["images"])
        return cls(
            classes=np.array(classes, dtype=np.int64),
            images=np.array(images, dtype=np.int64),
            relative_xyxy=np.array(boxes, dtype=np.float64).reshape(-1, 4),
            votes=np.array(votes, dtype=np.int64),
        )


def class_rows(labels: Sequence[str], rows: pd.DataFrame, boxes: BoxColumns, counts: dict[str, Any]) -> list[ClassRow]:
    """Return a row for each label, in order.

    Args:
        labels: the classes.
        rows: the readers' rows under the names of the labels.
        boxes: the consensus.
        counts: the label set's entry of the manifest.
    """
    drawn = rows["class_name"].value_counts()
    result = []
    for label, name in enumerate(labels):
        own = boxes.votes[boxes.classes == label]
        train, val = (counts[split]["by_class"][name] for split in ("train", "val"))
        result.append(
            ClassRow(
                label=label,
                name=name,
                readers_boxes=int(drawn.get(name, 0)),
                boxes=len(own),
                votes=dict(sorted(Counter(own.tolist()).items())),
                train_images=train["images"],
                train_boxes=train["boxes"],
                val_images=val["images"],
                val_boxes=val["boxes"],
                absent=train.get("absent", 0) + val.get("absent", 0),
                unknown=train.get("unknown", 0) + val.get("unknown", 0),
            )
        )
    return result


def reader_rows(labels: Sequence[str], rows: pd.DataFrame) -> list[ReaderRow]:
    """Return a row for each reader, who drew most first."""
    images = rows.groupby("reader")["image_id"].nunique()
    found = rows[rows["class_name"].isin(labels)]
    with_box = found.groupby("reader")["image_id"].nunique()
    boxes = found.groupby(["reader", "class_name"]).size()
    result = [
        ReaderRow(
            name=str(reader),
            images=int(count),
            without_box=int(count - with_box.get(reader, 0)),
            boxes=tuple(int(boxes.get((reader, name), 0)) for name in labels),
        )
        for reader, count in images.items()
    ]
    return sorted(result, key=lambda row: (-row.total, -row.images, row.name))


def company(labels: Sequence[str], boxes: BoxColumns) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return (C,) images of each class, and (C, C) the share of row's images that hold column's class as well."""
    holds = np.zeros((boxes.images.max(initial=-1) + 1, len(labels)), dtype=np.int64)
    holds[boxes.images, boxes.classes] = 1
    together = holds.T @ holds
    images = np.diag(together).copy()
    return images, together / np.maximum(images, 1)[:, None]


def size_rows(labels: Sequence[str], boxes: BoxColumns) -> list[SizeRow]:
    """Return the sizes of each class that has boxes, largest median first."""
    sides = boxes.relative_xyxy[:, 2:] - boxes.relative_xyxy[:, :2]
    shares = sides.prod(axis=1)
    result = [
        SizeRow(label, name, tuple(np.quantile(shares[boxes.classes == label], QUANTILES).tolist()))
        for label, name in enumerate(labels)
        if (boxes.classes == label).any()
    ]
    return sorted(result, key=lambda row: -row.quantiles[2])


def place_map(boxes_xyxy: NDArray[np.float64], side: int) -> NDArray[np.float64]:
    """Return (side, side) how many boxes cover each cell of the image.

    Args:
        boxes_xyxy: (N, 4), 0…1 on both axes.
        side: cells on both axes.
    """
    low = np.clip(np.floor(boxes_xyxy[:, :2] * side).astype(np.int64), 0, side - 1)
    high = np.clip(np.ceil(boxes_xyxy[:, 2:] * side).astype(np.int64), low + 1, side)
    # Steps up and down at the corners; their running sums fill the rectangles.
    steps = np.zeros((side + 1, side + 1))
    np.add.at(steps, (low[:, 1], low[:, 0]), 1)
    np.add.at(steps, (high[:, 1], high[:, 0]), 1)
    np.add.at(steps, (low[:, 1], high[:, 0]), -1)
    np.add.at(steps, (high[:, 1], low[:, 0]), -1)
    return steps.cumsum(axis=0).cumsum(axis=1)[:side, :side]


def normal_share(rows: pd.DataFrame) -> float:
    """Return the share of images on which no reader drew a box."""
    with_box = rows.loc[rows["class_name"] != NO_FINDING, "image_id"].nunique()
    images = rows["image_id"].nunique()
    return 1 - with_box / images if images else 0.0
