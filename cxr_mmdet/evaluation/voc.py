"""Average precision as PASCAL VOC 2010 and the VinBigData competition define it: the whole area, at IoU above 0.4."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, overload

import numpy as np

from cxr_mmdet.evaluation.counting import as_weights, operating_points
from cxr_mmdet.evaluation.matching import match_detections

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from cxr_mmdet.evaluation.counting import Weights
    from cxr_mmdet.evaluation.matching import ClassMatches
    from cxr_mmdet.evaluation.results import CocoDict, Detection

COMPETITION_IOU = 0.4
"""VinBigData's metric on Kaggle: the standard PASCAL VOC 2010 mAP at IoU > 0.4."""


@dataclass(frozen=True)
class VocClassScores:
    """One class's average precision, 0…1; ``None`` where the ground truth holds no box of the class."""

    name: str
    ap: float | None
    ground_truth_boxes: int
    detections: int


@dataclass(frozen=True)
class VocScores:
    """Average precision at one IoU: the mean over the classes that have boxes, and each class in file order."""

    iou_threshold: float
    mean_ap: float | None
    per_class: tuple[VocClassScores, ...]


def evaluate_voc(
    ground_truth: CocoDict, detections: Sequence[Detection], iou_threshold: float = COMPETITION_IOU
) -> VocScores:
    """Return the competition's metric over the ground truth's own classes, with no cap on detections.

    Raises:
        DatasetError: a detection names an image or a category that the ground truth lacks.
    """
    return voc_scores(match_detections(ground_truth, detections, iou_threshold=iou_threshold), iou_threshold)


def voc_scores(matches: Sequence[ClassMatches], iou_threshold: float = COMPETITION_IOU) -> VocScores:
    """Return the scores of detections that were matched at ``iou_threshold``."""
    per_class = tuple(
        VocClassScores(
            name=entry.name,
            ap=average_precision(entry),
            ground_truth_boxes=entry.boxes,
            detections=len(entry.scores),
        )
        for entry in matches
    )
    defined = [scores.ap for scores in per_class if scores.ap is not None]
    mean_ap = float(np.mean(defined)) if defined else None
    return VocScores(iou_threshold=iou_threshold, mean_ap=mean_ap, per_class=per_class)


@overload
def average_precision(matches: ClassMatches, weights: None = None) -> float | None: ...


@overload
def average_precision(matches: ClassMatches, weights: Weights) -> NDArray[np.float64]: ...


def average_precision(matches: ClassMatches, weights: Weights | None = None) -> float | NDArray[np.float64] | None:
    """Return the area under the precision envelope over recall, 0…1.

    Precision at a recall is the highest precision at that recall or more (VOC 2010, ``VOCevaldet.m``); the area is
    exact, not sampled at 11 or 101 recalls. VOC ranks detections one by one; here those of one score are one operating
    point, because no threshold can part them, so the result doesn't depend on how a file lists them. Without equal
    scores both are the same.

    Args:
        matches: one class's detections.
        weights: how often each image counts, (images,) or (resamples, images), at least 0; once each by default.

    Returns:
        Without weights one number, ``None`` where there is no box to find. With weights (resamples,) numbers, NaN
        where a resample holds no box.
    """
    points = operating_points(matches, as_weights(weights, len(matches.positives)))
    found = points.hits + points.false_positives
    precision = np.divide(points.hits, found, out=np.zeros_like(found), where=found > 0)
    envelope = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
    area = (np.diff(points.hits, axis=0, prepend=0) * envelope).sum(axis=0)
    ap = np.divide(area, points.positives, out=np.full_like(area, np.nan), where=points.positives > 0)
    if weights is not None:
        return ap
    return None if np.isnan(ap[0]) else float(ap[0])


def mean_defined(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean over the first axis of what is defined (not NaN); NaN where nothing is."""
    defined = ~np.isnan(values)
    count = defined.sum(axis=0)
    total = np.where(defined, values, 0).sum(axis=0)
    return np.divide(total, count, out=np.full(np.shape(count), np.nan), where=count > 0)
