"""Readers' boxes as arrays, who looked at which image, and boxes of several readers that may be one finding."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from cxr_mmdet.annotations.consensus import REFERENCE_IOU_THRESHOLD, cluster_boxes
from cxr_mmdet.annotations.table import without_regions
from cxr_mmdet.evaluation.matching import TruthTable
from cxr_mmdet.structures.boxes import XYXY_COLUMNS, area, xyxy_to_xywh

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Flags = NDArray[np.bool_]
    Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Marks:
    """Readers' boxes as arrays of one length, and who looked at which image.

    Attributes:
        labels: names of the classes.
        readers: names of the readers.
        image_names: names of the images, sorted.
        images: (N,) place of each box's image.
        classes: (N,) place of its class.
        drawn_by: (N,) place of its reader.
        boxes_xyxy: (N, 4).
        looked: (images, readers) whether the reader looked at the image, with or without a finding.
    """

    labels: tuple[str, ...]
    readers: tuple[str, ...]
    image_names: NDArray[np.object_]
    images: Indices
    classes: Indices
    drawn_by: Indices
    boxes_xyxy: Floats
    looked: Flags

    @classmethod
    def of(cls, rows: pd.DataFrame, labels: Sequence[str], readers: Sequence[str] = ()) -> Marks:
        """Return the boxes of ``labels``, the same whatever the order of the rows.

        Args:
            rows: validated readers' rows; regions to ignore are not marks.
            labels: classes to look at.
            readers: readers to number first; others follow in the order of their names.
        """
        rows = without_regions(rows)
        known = set(readers)
        names = [*readers, *sorted(set(rows["reader"]) - known)]
        images, image_names = pd.factorize(rows["image_id"], sort=True)
        drawn_by = pd.Index(names).get_indexer(pd.Index(rows["reader"]))
        classes = pd.Index(labels).get_indexer(pd.Index(rows["class_name"]))
        looked = np.zeros((len(image_names), len(names)), dtype=bool)
        looked[images, drawn_by] = True
        boxes = rows[XYXY_COLUMNS].to_numpy(np.float64)
        kept = np.flatnonzero(classes >= 0)
        order = kept[
            np.lexsort((drawn_by[kept], *(-side for side in boxes[kept].T[::-1]), classes[kept], images[kept]))
        ]
        return cls(
            labels=tuple(labels),
            readers=tuple(names),
            image_names=np.asarray(image_names, dtype=object),
            images=images[order],
            classes=classes[order],
            drawn_by=drawn_by[order],
            boxes_xyxy=boxes[order],
            looked=looked,
        )

    def hide_each_reader(self) -> tuple[Marks, Indices, Indices]:
        """Return one image for each reading that another reader shares: the image without that reader.

        Returns:
            The readings of the others; (readings,) the image of each; (readings,) the hidden reader.
        """
        shared = self.looked & (self.looked.sum(axis=1) > 1)[:, None]
        of_reading, hidden = np.nonzero(shared)
        place = np.full(self.looked.shape, -1)
        place[of_reading, hidden] = np.arange(len(hidden))
        kept, reading = [], []
        for reader in np.unique(hidden).tolist():
            others = np.flatnonzero((place[self.images, reader] >= 0) & (self.drawn_by != reader))
            kept.append(others)
            reading.append(place[self.images[others], reader])
        rows = np.concatenate([np.zeros(0, np.int64), *kept])
        readings = np.concatenate([np.zeros(0, np.int64), *reading])
        order = np.lexsort((rows, readings))
        looked = self.looked[of_reading]
        looked[np.arange(len(hidden)), hidden] = False
        rows = rows[order]
        marks = replace(
            self,
            image_names=self.image_names[of_reading],
            images=readings[order],
            classes=self.classes[rows],
            drawn_by=self.drawn_by[rows],
            boxes_xyxy=self.boxes_xyxy[rows],
            looked=looked,
        )
        return marks, of_reading, hidden

    def take_images(self, chosen: Flags) -> Marks:
        """Return the images of an (images,) mask."""
        number = np.cumsum(chosen) - 1
        kept = chosen[self.images]
        return replace(
            self,
            image_names=self.image_names[chosen],
            images=number[self.images[kept]],
            classes=self.classes[kept],
            drawn_by=self.drawn_by[kept],
            boxes_xyxy=self.boxes_xyxy[kept],
            looked=self.looked[chosen],
        )


@dataclass(frozen=True)
class Candidates:
    """Marks that overlap, as one: what may be a finding.

    Attributes:
        of_mark: (N,) candidate of each mark.
        images: (K,).
        classes: (K,).
        boxes_xyxy: (K, 4) mean of the marks.
        spread: (K, 4) deviation of the marks' sides, in shares of width and height.
        n_marks: (K,).
        marked: (K, readers) who marked it.
        missed: (K, readers) who looked and did not.
    """

    of_mark: Indices
    images: Indices
    classes: Indices
    boxes_xyxy: Floats
    spread: Floats
    n_marks: Indices
    marked: Flags
    missed: Flags

    @property
    def sizes(self) -> Floats:
        """Width, height, width, height of the (K, 4) boxes, at least a pixel."""
        return np.tile(np.maximum(self.boxes_xyxy[:, 2:] - self.boxes_xyxy[:, :2], 1.0), 2)

    @classmethod
    def of(cls, marks: Marks, iou_threshold: float = REFERENCE_IOU_THRESHOLD) -> Candidates:
        """Return the candidates by weighted boxes fusion of all marks alike."""
        _, groups = np.unique(marks.images * len(marks.labels) + marks.classes, return_inverse=True)
        ones = np.ones(len(marks.images))
        of_mark = cluster_boxes(marks.boxes_xyxy, ones, groups.reshape(-1), iou_threshold, fuse=True)
        _, first = np.unique(of_mark, return_index=True)
        counts = np.bincount(of_mark, minlength=len(first))
        boxes = _means(of_mark, marks.boxes_xyxy, counts)
        sizes = np.tile(np.maximum(boxes[:, 2:] - boxes[:, :2], 1.0), 2)
        variance = _means(of_mark, (marks.boxes_xyxy - boxes[of_mark]) ** 2, counts)
        marked = np.zeros((len(first), len(marks.readers)), dtype=bool)
        marked[of_mark, marks.drawn_by] = True
        return cls(
            of_mark=of_mark,
            images=marks.images[first],
            classes=marks.classes[first],
            boxes_xyxy=boxes,
            spread=np.sqrt(variance) / sizes,
            n_marks=counts,
            marked=marked,
            missed=marks.looked[marks.images[first]] & ~marked,
        )


def hidden_boxes(marks: Marks, of_reading: Indices, hidden: Indices) -> TruthTable:
    """Return the boxes of the hidden readers of :meth:`Marks.hide_each_reader`, each on the image of its reading."""
    reading = np.full(marks.looked.shape, -1)
    reading[of_reading, hidden] = np.arange(len(hidden))
    own = reading[marks.images, marks.drawn_by]
    kept = own >= 0
    return boxes_as_truth(own[kept], marks.classes[kept], marks.boxes_xyxy[kept], len(hidden), marks.labels)


def boxes_as_truth(
    images: Indices, classes: Indices, boxes_xyxy: Floats, n_images: int, labels: Sequence[str]
) -> TruthTable:
    """Return the table of boxes on images and of classes that are numbered from 0."""
    return TruthTable(
        image_ids=np.arange(n_images),
        category_ids=np.arange(len(labels)),
        names=tuple(labels),
        image_index=images,
        category_index=classes,
        boxes_xywh=xyxy_to_xywh(boxes_xyxy),
        areas=area(boxes_xyxy),
        crowd=np.zeros(len(images), dtype=bool),
    )


def rows_of(owners: Indices, wanted: Indices) -> tuple[Indices, Indices]:
    """Return the rows whose owner is ``wanted[i]``, for every i, and that i beside each."""
    order = np.argsort(owners, kind="stable")
    starts, ends = (np.searchsorted(owners[order], wanted, side=side) for side in ("left", "right"))
    counts = ends - starts
    places = np.repeat(np.arange(len(wanted)), counts)
    within = np.arange(len(places)) - np.repeat(np.cumsum(counts) - counts, counts)
    return order[starts[places] + within], places


def sums_at(places: Indices, values: Floats, length: int) -> Floats:
    """Return (length, columns) sums of the rows of ``values`` that stand at each place."""
    return np.stack([np.bincount(places, column, minlength=length) for column in values.T], axis=1)


def _means(places: Indices, values: Floats, counts: Indices) -> Floats:
    return sums_at(places, values, len(counts)) / np.maximum(counts, 1)[:, None]
