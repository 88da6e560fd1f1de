"""Average precision as PASCAL VOC 2010 and the VinBigData competition define it: the whole area, at IoU above 0.4."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from cxr_mmdet.evaluation.matching import first_of_runs
from cxr_mmdet.structures.scores import reaches

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from cxr_mmdet.evaluation.matching import ClassMatches, Indices

    Weights = NDArray[np.number]
    Counts = NDArray[np.float64]


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
    """Average precision at one IoU: the mean over the classes that have boxes, and every class in file order."""

    iou_threshold: float
    mean_ap: float | None
    per_class: tuple[VocClassScores, ...]


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
    exact, not sampled at 11 or 101 recalls. VOC ranks detections one by one; here detections of one score are one
    operating point, because no threshold can separate them, so that the order of a file does not matter. Without equal
    scores both are identical.

    Args:
        matches: one class's detections.
        weights: weight of each image, (images,) or (resamples, images), at least 0; 1 by default.

    Returns:
        Without weights one number, ``None`` without a box. With weights (resamples,) numbers, NaN where a resample
        holds no box.
    """
    points = operating_points(matches, as_weights(weights, len(matches.positives)))
    counted = points.hits + points.false_positives
    precision = np.divide(points.hits, counted, out=np.zeros_like(counted), where=counted > 0)
    envelope = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
    area = (np.diff(points.hits, axis=0, prepend=0) * envelope).sum(axis=0)
    ap = np.divide(area, points.positives, out=np.full_like(area, np.nan), where=points.positives > 0)
    if weights is not None:
        return ap
    return None if np.isnan(ap[0]) else float(ap[0])


@dataclass(frozen=True)
class ThresholdScores:
    """Counts of one class, or of all, at a score threshold.

    Attributes:
        name: the class, or all findings.
        true_positives: ground truth boxes that are hit.
        false_positives: other detections, a second detection of a box included.
        false_negatives: ground truth boxes that are missed.
    """

    name: str
    true_positives: int
    false_positives: int
    false_negatives: int

    @property
    def precision(self) -> float | None:
        """Share of the detections that hit; None without detections."""
        return _share(self.true_positives, self.true_positives + self.false_positives)

    @property
    def recall(self) -> float | None:
        """Share of the ground truth boxes that are hit; None without boxes."""
        return _share(self.true_positives, self.true_positives + self.false_negatives)

    @property
    def f1(self) -> float | None:
        """Harmonic mean of precision and recall, 0 without hits; None without boxes."""
        if self.recall is None:
            return None
        return _share(2 * self.true_positives, 2 * self.true_positives + self.false_positives + self.false_negatives)

    def to_json(self) -> dict[str, Any]:
        """Return the scores and counts as ``metrics.json`` holds them."""
        return vars(self) | {"precision": self.precision, "recall": self.recall, "f1": self.f1}


def scores_at_threshold(matches: ClassMatches, score_threshold: float | None) -> ThresholdScores:
    """Return the counts of the detections that reach a score; None: no detection counts."""
    shown = reaches(matches.scores, np.inf if score_threshold is None else score_threshold)
    hits = int((matches.hits & shown).sum())
    return ThresholdScores(
        name=matches.name,
        true_positives=hits,
        false_positives=int(shown.sum()) - hits,
        false_negatives=matches.boxes - hits,
    )


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def mean_defined(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean of the defined values (not NaN) over the first axis; NaN where none is defined."""
    defined = ~np.isnan(values)
    count = defined.sum(axis=0)
    total = np.where(defined, values, 0).sum(axis=0)
    return np.divide(total, count, out=np.full(np.shape(count), np.nan), where=count > 0)


ELEMENTS_AT_ONCE = 4_000_000
"""Weights per block: 32 MB of float64."""


@dataclass(frozen=True)
class OperatingPoints:
    """Weighted hits and false positives at the scores of hits.

    Other scores are omitted: between hits only precision falls. Detections of one score form one point, because no
    threshold can separate them.

    Attributes:
        scores: (P,), falling.
        hits: (P, R) weighted hits with at least that score.
        false_positives: (P, R) weighted other detections with at least that score.
        positives: (R,) weighted ground truth boxes.
        images: (R,) weighted images on which false positives are counted.
    """

    scores: NDArray[np.float64]
    hits: Counts
    false_positives: Counts
    positives: Counts
    images: Counts


def operating_points(matches: ClassMatches, weights: Weights, *, count_duplicates: bool = True) -> OperatingPoints:
    """Return the counts of ``matches`` where image i counts ``weights[r, i]`` times.

    Args:
        matches: a class's detections.
        weights: (R, images), at least 0: multiplicities in a resample, or ones.
        count_duplicates: count a second detection of a box as a false positive (average precision); otherwise ignore it
            (FROC).
    """
    per_image = np.ascontiguousarray(weights.T)
    counted = np.ones(len(matches.hits), bool) if count_duplicates else ~matches.duplicates
    hits, scores, image_index = matches.hits[counted], matches.scores[counted], matches.image_index[counted]
    ends = _ends_of_ties(scores)
    points = np.unique(ends[hits])
    counted_before = int(points[-1]) + 1 if len(points) else 0
    all_sums = segment_sums(per_image, image_index[:counted_before], points)
    hit_ends = np.searchsorted(ends[hits], points, side="right") - 1
    hit_sums = segment_sums(per_image, image_index[hits], hit_ends)
    cumulated_hits = np.cumsum(hit_sums, axis=0, dtype=np.float64)
    return OperatingPoints(
        scores=scores[points],
        hits=cumulated_hits,
        false_positives=np.cumsum(all_sums, axis=0, dtype=np.float64) - cumulated_hits,
        positives=(matches.positives @ per_image).astype(np.float64),
        images=_weighted_images(matches, per_image),
    )


def _weighted_images(matches: ClassMatches, per_image: NDArray[Any]) -> Counts:
    if matches.searched is None:
        return per_image.sum(axis=0, dtype=np.float64)
    return (matches.searched @ per_image).astype(np.float64)


def as_weights(weights: Weights | None, images: int) -> Weights:
    """Return ``weights`` as (R, images): ones in one row where there are none, one row where it is (images,)."""
    return np.ones((1, images)) if weights is None else np.atleast_2d(weights)


def _ends_of_ties(falling: NDArray[np.float64]) -> Indices:
    """Return for each entry the index of the last entry of the same value."""
    starts = first_of_runs(falling)
    lengths = np.diff(np.append(starts, len(falling)))
    return np.repeat(starts + lengths - 1, lengths)


def segment_sums(per_image: NDArray[Any], image_index: Indices, last: Indices) -> NDArray[Any]:
    """Return (P, R) sums of the rows of ``per_image`` that ``image_index`` names, in segments that end at ``last``."""
    sums = np.zeros((len(last), per_image.shape[1]), per_image.dtype)
    rows_at_once = max(1, ELEMENTS_AT_ONCE // max(1, per_image.shape[1]))
    starts = np.concatenate([[0], last[:-1] + 1]) if len(last) else last
    for begin in range(0, len(image_index), rows_at_once):
        block = image_index[begin : begin + rows_at_once]
        first = int(np.searchsorted(starts, begin, side="right")) - 1
        end = int(np.searchsorted(starts, begin + len(block), side="left"))
        cuts = np.maximum(starts[first:end] - begin, 0)
        sums[first:end] += np.add.reduceat(per_image[block], cuts, axis=0, dtype=per_image.dtype)
    return sums
