"""Matches between detections and ground truth boxes, computed once for all metrics."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from cxr_mmdet.structures.boxes import area, as_boxes, intersection, iou, xywh_to_xyxy
from cxr_mmdet.structures.coco import require_known_ids
from cxr_mmdet.structures.coverage import NORMAL_KEY, Coverage, coverage_of, is_partly_labelled
from cxr_mmdet.structures.enums import HitCriterion

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import Any

    from numpy.typing import NDArray

    from cxr_mmdet.structures.coco import CocoDict, Detection

    Indices = NDArray[np.int64]


PAIRS_AT_ONCE = 1_000_000
"""Pairs of boxes per block, about 150 MB."""

EVERYWHERE_XYWH = (-1e9, -1e9, 2e9, 2e9)
"""Crowd region around any image, for classes of which not all findings have a box."""


@dataclass(frozen=True)
class TruthTable:
    """Ground truth as columns; rows follow the order of the file's annotations.

    The last rows are crowd regions that stand for what the file says of an image's classes: LVIS ignores unmatched
    detections of a class that is not marked exhaustively, as COCO does within a crowd region.

    Attributes:
        image_ids: (I,), in file order; ``image_index`` refers to it.
        category_ids: (C,), in file order; ``category_index`` refers to it.
        names: names of the categories.
        image_index: (N,) of each box.
        category_index: (N,) of each box.
        boxes_xywh: (N, 4), absolute pixels.
        areas: (N,) square pixels as stated in the file, by which COCO calls boxes small, medium or large.
        crowd: (N,) bool: COCO's ``iscrowd``, a region in which detections count neither for nor against.
        coverage: (I, C) values of :class:`~cxr_mmdet.structures.coverage.Coverage`; None where every class of every
            image was looked for.
        maybe_abnormal: (I,) bool: without a box, but not known to be normal (``NORMAL_KEY``); None: no such image.
    """

    image_ids: Indices
    category_ids: Indices
    names: tuple[str, ...]
    image_index: Indices
    category_index: Indices
    boxes_xywh: NDArray[np.float64]
    areas: NDArray[np.float64]
    crowd: NDArray[np.bool_]
    coverage: NDArray[np.int8] | None = None
    maybe_abnormal: NDArray[np.bool_] | None = None

    @classmethod
    def of(cls, ground_truth: CocoDict) -> TruthTable:
        """Return the table of a validated COCO dict."""
        annotations = ground_truth["annotations"]
        image_ids = _column(ground_truth["images"], "id", np.int64)
        category_ids = _column(ground_truth["categories"], "id", np.int64)
        areas = np.array([entry.get("area", entry["bbox"][2] * entry["bbox"][3]) for entry in annotations], float)
        coverage = coverage_of(ground_truth) if is_partly_labelled(ground_truth) else None
        partly = np.zeros((0, 0), bool) if coverage is None else coverage == Coverage.NOT_EXHAUSTIVE
        image, label = np.nonzero(partly)
        everywhere = np.tile(EVERYWHERE_XYWH, (len(image), 1))
        crowd = np.array([bool(annotation.get("iscrowd", 0)) for annotation in annotations], dtype=bool)
        return cls(
            image_ids=image_ids,
            category_ids=category_ids,
            names=tuple(category["name"] for category in ground_truth["categories"]),
            image_index=_with(_places(image_ids, _column(annotations, "image_id", np.int64)), image),
            category_index=_with(_places(category_ids, _column(annotations, "category_id", np.int64)), label),
            boxes_xywh=_with(_boxes_xywh(annotations), everywhere),
            areas=_with(areas, np.prod(everywhere[:, 2:], axis=1)),
            crowd=_with(crowd, np.ones(len(image), bool)),
            coverage=coverage,
            maybe_abnormal=np.array([image.get(NORMAL_KEY) is False for image in ground_truth["images"]], dtype=bool),
        )

    @property
    def exhaustive(self) -> NDArray[np.bool_]:
        """(I, C) whether the class was looked for on the image and every finding of it has a box."""
        if self.coverage is None:
            return np.ones((len(self.image_ids), len(self.names)), bool)
        return self.coverage == Coverage.EXHAUSTIVE

    @cached_property
    def boxes_xyxy(self) -> NDArray[np.float64]:
        """The boxes as (x_min, y_min, x_max, y_max)."""
        return xywh_to_xyxy(self.boxes_xywh)


@dataclass(frozen=True)
class DetectionTable:
    """Detections that count, as columns; rows follow the order of the list, by which equal scores rank.

    Detections of a class that nobody looked for on their image count neither for nor against (the federated evaluation
    of LVIS: Gupta, Dollár and Girshick, CVPR 2019, section 3.3) and are left out.

    Attributes:
        image_index: (N,), index of the ground truth's images.
        category_index: (N,), index of the ground truth's categories.
        boxes_xywh: (N, 4), absolute pixels.
        scores: (N,), 0…1.
    """

    image_index: Indices
    category_index: Indices
    boxes_xywh: NDArray[np.float64]
    scores: NDArray[np.float64]

    @classmethod
    def of(cls, ground_truth: CocoDict, detections: Sequence[Detection]) -> DetectionTable:
        """Return the table of COCO results.

        Raises:
            DatasetError: a detection names an image or a category that the ground truth lacks.
        """
        require_known_ids(ground_truth, detections)
        image_ids = _column(ground_truth["images"], "id", np.int64)
        category_ids = _column(ground_truth["categories"], "id", np.int64)
        table = cls(
            image_index=_places(image_ids, _column(detections, "image_id", np.int64)),
            category_index=_places(category_ids, _column(detections, "category_id", np.int64)),
            boxes_xywh=_boxes_xywh(detections),
            scores=_column(detections, "score", np.float64),
        )
        if not is_partly_labelled(ground_truth):
            return table
        known = coverage_of(ground_truth)[table.image_index, table.category_index]
        # A box without extent lies in no region and hits nothing.
        extent = (table.boxes_xywh[:, 2:] > 0).all(axis=1)
        counted = np.where(extent, known > Coverage.UNKNOWN, known == Coverage.EXHAUSTIVE)
        return cls(*(column[counted] for column in vars(table).values()))

    @cached_property
    def boxes_xyxy(self) -> NDArray[np.float64]:
        """The boxes as (x_min, y_min, x_max, y_max)."""
        return xywh_to_xyxy(self.boxes_xywh)


@dataclass(frozen=True)
class Pairs:
    """Pairs of a detection and a ground truth box of one image, ordered by detection, then by ground truth box.

    Attributes:
        found: (P,) row of the detection table.
        truth: (P,) row of the truth table.
        iou: (P,), above 0.
    """

    found: Indices
    truth: Indices
    iou: NDArray[np.float64]


def overlapping_pairs(truth: TruthTable, detections: DetectionTable, *, same_class: bool = True) -> Pairs:
    """Return every pair of a detection and a ground truth box of one image (and class) that overlap.

    Args:
        truth: the ground truth.
        detections: the detections.
        same_class: leave out pairs of different classes.
    """
    classes = len(truth.category_ids) if same_class else 1
    truth_keys = truth.image_index * classes + (truth.category_index if same_class else 0)
    found_keys = detections.image_index * classes + (detections.category_index if same_class else 0)
    order = np.argsort(truth_keys, kind="stable")
    starts = np.searchsorted(truth_keys[order], found_keys, side="left")
    counts = np.searchsorted(truth_keys[order], found_keys, side="right") - starts
    parts = [
        _pairs_of_rows(truth, detections, order, starts, counts, rows)
        for rows in _blocks(np.flatnonzero(counts), counts)
    ]
    if not parts:
        none = np.zeros(0, np.int64)
        return Pairs(found=none, truth=none, iou=np.zeros(0))
    return Pairs(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def share_of_detection(truth: TruthTable, detections: DetectionTable, pairs: Pairs) -> NDArray[np.float64]:
    """Return (P,) the share of each detection's area in its box, COCO's IoU with a crowd region."""
    areas = area(detections.boxes_xyxy)[pairs.found]
    shared = intersection(detections.boxes_xyxy[pairs.found], truth.boxes_xyxy[pairs.truth])
    return np.divide(shared, areas, out=np.zeros_like(areas), where=areas > 0)


def first_of_runs(sorted_values: NDArray[np.generic]) -> Indices:
    """Return the indices at which a run of equal values starts."""
    changes = np.flatnonzero(sorted_values[1:] != sorted_values[:-1]) + 1
    return np.concatenate([np.zeros(min(1, len(sorted_values)), np.int64), changes])


def _pairs_of_rows(
    truth: TruthTable, detections: DetectionTable, order: Indices, starts: Indices, counts: Indices, rows: Indices
) -> tuple[Indices, Indices, NDArray[np.float64]]:
    own_counts = counts[rows]
    found_rows = np.repeat(rows, own_counts)
    before = np.cumsum(own_counts) - own_counts
    within = np.arange(len(found_rows)) - np.repeat(before, own_counts)
    truth_rows = order[starts[found_rows] + within]
    values = iou(detections.boxes_xyxy[found_rows], truth.boxes_xyxy[truth_rows])
    kept = values > 0
    return found_rows[kept], truth_rows[kept], values[kept]


def _blocks(rows: Indices, counts: Indices) -> Iterator[Indices]:
    """Yield ``rows`` in parts of about :data:`PAIRS_AT_ONCE` pairs."""
    block = np.cumsum(counts[rows]) // PAIRS_AT_ONCE
    return iter(np.split(rows, first_of_runs(block)[1:])) if len(rows) else iter(())


def _with(column: NDArray[Any], more: NDArray[Any]) -> NDArray[Any]:
    return np.concatenate([column, more.astype(column.dtype)]) if len(more) else column


def _column(entries: Sequence[Mapping[str, Any]], key: str, dtype: type[np.generic]) -> NDArray[Any]:
    return np.fromiter((entry[key] for entry in entries), dtype=dtype, count=len(entries))


def _boxes_xywh(entries: Sequence[Mapping[str, Any]]) -> NDArray[np.float64]:
    return as_boxes([entry["bbox"] for entry in entries])


def _places(ids: Indices, wanted: Indices) -> Indices:
    """Return the index of each of ``wanted`` in ``ids``, which contain all of them."""
    order = np.argsort(ids)
    return order[np.searchsorted(ids[order], wanted)] if len(wanted) else np.zeros(0, np.int64)


@dataclass(frozen=True)
class ClassMatches:
    """Detections of one class, the highest score first, and whether each hits.

    Detections that lie in a crowd region and hit no other box are left out: they count neither for nor against.

    Attributes:
        name: the class.
        scores: (N,), falling; equal scores follow the order of the list.
        hits: (N,) bool: the first detection of a ground truth box.
        duplicates: (N,) bool: matches a ground truth box that a higher score, or an earlier entry of the same score,
            has hit. VOC counts it as a false positive, a FROC curve leaves it out.
        image_index: (N,), index of the ground truth's images.
        detection_index: (N,), row of the table of detections.
        annotation_index: (N,), ground truth box that is hit, for the first or another time, as an index of the ground
            truth's annotations; -1 for other detections.
        positives: (images,), number of ground truth boxes per image, without crowd regions.
        searched: (images,) share of the classes that were looked for and marked exhaustively on each image, 0 or 1 for
            one class: false positives per image are counted on these; None: 1 on every image.
    """

    name: str
    scores: NDArray[np.float64]
    hits: NDArray[np.bool_]
    duplicates: NDArray[np.bool_]
    image_index: Indices
    detection_index: Indices
    annotation_index: Indices
    positives: Indices
    searched: NDArray[np.float64] | None = None

    @property
    def boxes(self) -> int:
        """Number of ground truth boxes."""
        return int(self.positives.sum())


def match_detections(
    ground_truth: CocoDict,
    detections: Sequence[Detection],
    *,
    iou_threshold: float = 0.4,
    criterion: HitCriterion = HitCriterion.IOU,
) -> tuple[ClassMatches, ...]:
    """Return one entry per category, in the order of the ground truth's categories.

    The rule of PASCAL VOC 2010 (VOCdevkit, ``VOCevaldet.m``): each detection belongs to the ground truth box of its
    image and class with the highest IoU, the first of equals, taken or not; it hits if that IoU is above the
    threshold and no detection of a higher score has hit the box. Crowd regions (``iscrowd``) are not to be found: a
    detection of their class that hits nothing is left out if the share of its own area in a region is above the
    threshold, which is COCO's measure, because a region may be much larger than the finding in it. Boxes have
    continuous coordinates: a width is ``x_max - x_min``. There is no cap on detections.

    Args:
        ground_truth: COCO dict, checked.
        detections: COCO results, checked.
        iou_threshold: IoU that a hit exceeds; the centre criterion ignores it.
        criterion: by :attr:`HitCriterion.CENTRE` a detection belongs to the box of the highest IoU among those that
            its centre lies in, and is left out if it lies in a crowd region.

    Raises:
        DatasetError: a detection names an image or a category that the ground truth lacks.
    """
    truth, table = TruthTable.of(ground_truth), DetectionTable.of(ground_truth, detections)
    pairs = overlapping_pairs(truth, table)
    return match_tables(truth, table, pairs, iou_threshold=iou_threshold, criterion=criterion)


def match_tables(
    truth: TruthTable,
    detections: DetectionTable,
    pairs: Pairs,
    *,
    iou_threshold: float = 0.4,
    criterion: HitCriterion = HitCriterion.IOU,
) -> tuple[ClassMatches, ...]:
    """Return the matches of :func:`match_detections` for tables whose overlapping pairs of one class are known."""
    centre = criterion is HitCriterion.CENTRE
    near = _centre_inside(truth, detections, pairs) if centre else pairs.iou > iou_threshold
    crowd = truth.crowd[pairs.truth]
    hit = _best_pairs(pairs, near & ~crowd)
    inside = near if centre else share_of_detection(truth, detections, pairs) > iou_threshold
    in_region = np.zeros(len(detections.scores), bool)
    in_region[pairs.found[crowd & inside]] = True
    annotation_of = np.full(len(detections.scores), -1, np.int64)
    annotation_of[pairs.found[hit]] = pairs.truth[hit]
    order = np.lexsort((-detections.scores, detections.category_index))
    ends = np.searchsorted(detections.category_index[order], np.arange(len(truth.names) + 1))
    return tuple(
        _class_matches(truth, detections, label, order[start:end], annotation_of, in_region)
        for label, (start, end) in enumerate(pairwise(ends.tolist()))
    )


def _best_pairs(pairs: Pairs, near: NDArray[np.bool_]) -> Indices:
    """Return the rows of ``pairs`` that assign each detection to its box, if any is near enough."""
    rows = np.flatnonzero(near)
    best = rows[np.lexsort((pairs.truth[rows], -pairs.iou[rows], pairs.found[rows]))]
    return best[first_of_runs(pairs.found[best])]


def _centre_inside(truth: TruthTable, detections: DetectionTable, pairs: Pairs) -> NDArray[np.bool_]:
    boxes = detections.boxes_xyxy[pairs.found]
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    around = truth.boxes_xyxy[pairs.truth]
    inside = (around[:, :2] <= centres) & (centres <= around[:, 2:])
    return inside[:, 0] & inside[:, 1]


def _class_matches(
    truth: TruthTable,
    detections: DetectionTable,
    label: int,
    ranked: Indices,
    annotation_of: Indices,
    in_region: NDArray[np.bool_],
) -> ClassMatches:
    annotations = annotation_of[ranked]
    hits: NDArray[np.bool_] = np.zeros(len(ranked), bool)
    met, first = np.unique(annotations, return_index=True)
    hits[first[met >= 0]] = True
    counted = hits | ~in_region[ranked]
    ranked, annotations, hits = ranked[counted], annotations[counted], hits[counted]
    own = (truth.category_index == label) & ~truth.crowd
    return ClassMatches(
        name=truth.names[label],
        scores=detections.scores[ranked],
        hits=hits,
        duplicates=(annotations >= 0) & ~hits,
        image_index=detections.image_index[ranked],
        detection_index=ranked,
        annotation_index=annotations,
        positives=np.bincount(truth.image_index[own], minlength=len(truth.image_ids)),
        searched=None if truth.coverage is None else truth.exhaustive[:, label].astype(np.float64),
    )
