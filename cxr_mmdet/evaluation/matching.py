"""Which detections hit which ground truth boxes, by the rule of PASCAL VOC 2010; done once, counted in many ways."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from cxr_mmdet.evaluation.criterion import HitCriterion
from cxr_mmdet.evaluation.tables import (
    DetectionTable,
    TruthTable,
    first_of_runs,
    overlapping_pairs,
    share_of_detection,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from cxr_mmdet.evaluation.results import CocoDict, Detection
    from cxr_mmdet.evaluation.tables import Indices, Pairs


@dataclass(frozen=True)
class ClassMatches:
    """One class's detections, the highest score first, and what became of each.

    Detections that lie in a crowd region and hit no other box are left out: they count neither for nor against.

    Attributes:
        name: the class.
        scores: (N,), falling; equal scores stand in the order of the list.
        hits: (N,) bool: the first detection of a ground truth box.
        duplicates: (N,) bool: meets a ground truth box that a higher score, or an earlier entry of the same score, has
            hit. VOC counts it as a false positive, a FROC curve leaves it out.
        image_index: (N,), counting in the ground truth's images.
        detection_index: (N,), counting in the list of detections.
        annotation_index: (N,), the ground truth box that is hit or met again, counting in the ground truth's
            annotations; -1 for other detections.
        positives: (images,), how many ground truth boxes each image holds, without crowd boxes.
    """

    name: str
    scores: NDArray[np.float64]
    hits: NDArray[np.bool_]
    duplicates: NDArray[np.bool_]
    image_index: Indices
    detection_index: Indices
    annotation_index: Indices
    positives: Indices

    @property
    def boxes(self) -> int:
        """How many ground truth boxes there are to find."""
        return int(self.positives.sum())


def match_detections(
    ground_truth: CocoDict,
    detections: Sequence[Detection],
    *,
    iou_threshold: float = 0.4,
    criterion: HitCriterion = HitCriterion.iou,
) -> tuple[ClassMatches, ...]:
    """Return one entry a category, in the order of the ground truth's categories.

    The rule of PASCAL VOC 2010 (VOCdevkit, ``VOCevaldet.m``): each detection belongs to the ground truth box of its
    image and class with the highest IoU, the first of equals, whether taken or not; it hits when that IoU is above the
    threshold and no detection of a higher score has hit the box. Crowd regions (``iscrowd``) are no boxes to find: a
    detection of their class that hits nothing is left out if more than the threshold of its own area lies in one, as
    COCO measures it, for a region may be much larger than what it holds. Boxes have continuous coordinates: a width is
    ``x_max - x_min``. There is no cap on detections.

    Args:
        ground_truth: COCO dict, checked.
        detections: COCO results, checked.
        iou_threshold: IoU must be above it; the centre criterion doesn't look at it.
        criterion: by :attr:`HitCriterion.centre` a detection belongs to the box of the highest IoU among those that
            its centre lies in, and is left out if it lies in a crowd region.

    Raises:
        DatasetError: a detection names an image or a category that the ground truth lacks.
    """
    truth, found = TruthTable.of(ground_truth), DetectionTable.of(ground_truth, detections)
    pairs = overlapping_pairs(truth, found)
    return match_tables(truth, found, pairs, iou_threshold=iou_threshold, criterion=criterion)


def match_tables(
    truth: TruthTable,
    found: DetectionTable,
    pairs: Pairs,
    *,
    iou_threshold: float = 0.4,
    criterion: HitCriterion = HitCriterion.iou,
) -> tuple[ClassMatches, ...]:
    """Return what :func:`match_detections` does, of tables whose overlapping pairs of one class are known already."""
    centre = criterion is HitCriterion.centre
    near = _centre_inside(truth, found, pairs) if centre else pairs.iou > iou_threshold
    crowd = truth.crowd[pairs.truth]
    hit = _best_pairs(pairs, near & ~crowd)
    inside = near if centre else share_of_detection(truth, found, pairs) > iou_threshold
    in_region = np.zeros(len(found.scores), bool)
    in_region[pairs.found[crowd & inside]] = True
    annotation_of = np.full(len(found.scores), -1, np.int64)
    annotation_of[pairs.found[hit]] = pairs.truth[hit]
    order = np.lexsort((-found.scores, found.category_index))
    ends = np.searchsorted(found.category_index[order], np.arange(len(truth.names) + 1))
    return tuple(
        _class_matches(truth, found, label, order[start:end], annotation_of, in_region)
        for label, (start, end) in enumerate(pairwise(ends.tolist()))
    )


def _best_pairs(pairs: Pairs, near: NDArray[np.bool_]) -> Indices:
    """Return the rows of ``pairs`` that give each detection the box it belongs to, if it is near enough to any."""
    rows = np.flatnonzero(near)
    best = rows[np.lexsort((pairs.truth[rows], -pairs.iou[rows], pairs.found[rows]))]
    return best[first_of_runs(pairs.found[best])]


def _centre_inside(truth: TruthTable, found: DetectionTable, pairs: Pairs) -> NDArray[np.bool_]:
    boxes = found.boxes_xyxy[pairs.found]
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    around = truth.boxes_xyxy[pairs.truth]
    inside = (around[:, :2] <= centres) & (centres <= around[:, 2:])
    return inside[:, 0] & inside[:, 1]


def _class_matches(
    truth: TruthTable,
    found: DetectionTable,
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
        scores=found.scores[ranked],
        hits=hits,
        duplicates=(annotations >= 0) & ~hits,
        image_index=found.image_index[ranked],
        detection_index=ranked,
        annotation_index=annotations,
        positives=np.bincount(truth.image_index[own], minlength=len(truth.image_ids)),
    )
