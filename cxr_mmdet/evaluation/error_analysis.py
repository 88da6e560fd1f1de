"""TIDE's error types, confusion between classes, and calibration of scores."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from cxr_mmdet.evaluation.coco import run_coco
from cxr_mmdet.evaluation.matching import match_tables, overlapping_pairs, share_of_detection
from cxr_mmdet.structures.scores import reaches

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cxr_mmdet.evaluation.matching import ClassMatches, DetectionTable, TruthTable


TIDE_IOU, TIDE_BACKGROUND_IOU = 0.5, 0.1
"""TIDE's thresholds: a hit from 0.5 on, background below 0.1."""

TIDE_NAMES = {
    "class": "Cls",
    "localisation": "Loc",
    "both": "Both",
    "duplicate": "Dupe",
    "background": "Bkg",
    "missed": "Miss",
}
"""Our names and those of TIDE (Bolya et al., ECCV 2020)."""


@dataclass(frozen=True)
class ErrorKind:
    """One type of error: its count, and the rise of mAP@.5 if only this type is corrected."""

    name: str
    count: int
    cost: float


@dataclass(frozen=True)
class Confusion:
    """Confusion matrix at a score and an IoU.

    Attributes:
        names: the classes; row and column ``len(names)`` stand for background.
        counts: (classes + 1, classes + 1), rows are the ground truth, columns the detections. The last column counts
            missed boxes, the last row false alarms.
        score_threshold: detections below it do not count; None: no detection counts.
        iou_threshold: IoU that a match exceeds.
    """

    names: tuple[str, ...]
    counts: NDArray[np.int64]
    score_threshold: float | None
    iou_threshold: float

    def to_json(self) -> dict[str, Any]:
        """Return the content of ``metrics.json``."""
        return {**vars(self), "names": list(self.names), "counts": self.counts.tolist()}


def split_errors(truth: TruthTable, detections: DetectionTable) -> tuple[ErrorKind, ...]:
    """Return TIDE's six types of error; empty where no class has a box.

    TIDE calls a detection that is not a hit *class* (right box, wrong class), *localisation* (right class, IoU
    0.1…0.5), *both*, *duplicate*, or *background* (IoU below 0.1), and a box without any detection near it *missed*.
    The costs do not add up: the correction of one error can make another one visible.
    """
    if truth.crowd.any():
        truth, detections = _without_regions(truth, detections)
    evaluation = run_coco(truth, detections)
    if evaluation is None or not len(truth.crowd):
        return ()
    tide = evaluation.tide_errors(pos_thr=TIDE_IOU, bg_thr=TIDE_BACKGROUND_IOU)
    return tuple(
        ErrorKind(name=name, count=int(tide["counts"][short]), cost=float(tide["delta_ap"][short]))
        for name, short in TIDE_NAMES.items()
    )


def confusion(
    truth: TruthTable, detections: DetectionTable, *, score_threshold: float | None, iou_threshold: float
) -> Confusion:
    """Return the confusion matrix.

    The highest score first, each detection takes the free box of its class that it overlaps most; those that got none
    then look among the free boxes of other classes, so that two findings in one place do not count as an error.
    Crowd regions are left out, and with them detections of their class that lie in one and hit no box of that class.
    """
    pairs = overlapping_pairs(truth, detections, same_class=False)
    counted = reaches(detections.scores, np.inf if score_threshold is None else score_threshold)
    near = (pairs.iou > iou_threshold) & counted[pairs.found] & ~truth.crowd[pairs.truth]
    detection, box, overlap = pairs.found[near], pairs.truth[near], pairs.iou[near]
    other_class = detections.category_index[detection] != truth.category_index[box]
    same_class = detections.category_index[pairs.found] == truth.category_index[pairs.truth]
    regions = truth.crowd[pairs.truth] & same_class & (share_of_detection(truth, detections, pairs) > iou_threshold)
    in_region = np.zeros(len(detections.scores), bool)
    in_region[pairs.found[regions]] = True
    usable = ~(other_class & in_region[detection])
    detection, box, overlap, other_class = detection[usable], box[usable], overlap[usable], other_class[usable]
    order = np.lexsort((box, -overlap, detection, -detections.scores[detection], other_class))
    box_of: dict[int, int] = {}
    taken: set[int] = set()
    for own, candidate in zip(detection[order].tolist(), box[order].tolist(), strict=True):
        if own not in box_of and candidate not in taken:
            box_of[own] = candidate
            taken.add(candidate)
    background = len(truth.names)
    counts = np.zeros((background + 1, background + 1), np.int64)
    counted &= ~in_region | np.isin(np.arange(len(counted)), list(box_of))
    shown = np.flatnonzero(counted)
    there = np.array([truth.category_index[box_of[own]] if own in box_of else background for own in shown.tolist()])
    np.add.at(counts, (there.astype(np.int64), detections.category_index[shown]), 1)
    missed = np.setdiff1d(np.flatnonzero(~truth.crowd), np.fromiter(taken, np.int64, len(taken)))
    counts[:background, background] = np.bincount(truth.category_index[missed], minlength=background)
    return Confusion(names=truth.names, counts=counts, score_threshold=score_threshold, iou_threshold=iou_threshold)


def _without_regions(truth: TruthTable, detections: DetectionTable) -> tuple[TruthTable, DetectionTable]:
    """Return the tables without crowd regions and without the detections that lie in them."""
    matches = match_tables(truth, detections, overlapping_pairs(truth, detections), iou_threshold=TIDE_IOU)
    rows = np.sort(np.concatenate([entry.detection_index for entry in matches]))
    boxes = ~truth.crowd
    return replace(
        truth,
        image_index=truth.image_index[boxes],
        category_index=truth.category_index[boxes],
        boxes_xywh=truth.boxes_xywh[boxes],
        areas=truth.areas[boxes],
        crowd=truth.crowd[boxes],
    ), replace(
        detections,
        image_index=detections.image_index[rows],
        category_index=detections.category_index[rows],
        boxes_xywh=detections.boxes_xywh[rows],
        scores=detections.scores[rows],
    )


BINS = 10


@dataclass(frozen=True)
class Calibration:
    """Scores against precision, in bins of equal width.

    Attributes:
        name: the class, or all of them.
        counts: (bins,) detections.
        scores: (bins,) their mean score; NaN in an empty bin.
        precision: (bins,) the share of hits among them; NaN in an empty bin.
    """

    name: str
    counts: NDArray[np.int64]
    scores: NDArray[np.float64]
    precision: NDArray[np.float64]

    @property
    def ece(self) -> float | None:
        """The expected calibration error, 0…1: the mean distance of score and precision over the detections."""
        filled = self.counts > 0
        if not filled.any():
            return None
        distance = np.abs(self.scores[filled] - self.precision[filled])
        return float(np.average(distance, weights=self.counts[filled]))

    def to_json(self) -> dict[str, Any]:
        """Return the content of ``metrics.json``."""
        rows = zip(self.counts.tolist(), self.scores.tolist(), self.precision.tolist(), strict=True)
        return {
            "ece": self.ece,
            "bins": [
                {"count": count, "score": score if count else None, "precision": precision if count else None}
                for count, score, precision in rows
            ],
        }


def calibrate(matches: ClassMatches) -> Calibration:
    """Return precision over score, in :data:`BINS` bins of equal width.

    A duplicate is a false positive, as for average precision. Where many detections score close to 0, their bin
    dominates the error (Guo et al., ICML 2017; for detectors, Küppers et al., CVPR workshops 2020): read it beside the
    curve.

    Args:
        matches: one class's detections, or all pooled.
    """
    # A score on a border belongs to the upper bin, 1 to the last.
    place = np.minimum((matches.scores * BINS).astype(np.int64), BINS - 1)
    counts = np.bincount(place, minlength=BINS)
    nothing = np.full(BINS, np.nan)
    return Calibration(
        name=matches.name,
        counts=counts,
        scores=np.divide(np.bincount(place, matches.scores, BINS), counts, out=nothing.copy(), where=counts > 0),
        precision=np.divide(np.bincount(place, matches.hits, BINS), counts, out=nothing.copy(), where=counts > 0),
    )
