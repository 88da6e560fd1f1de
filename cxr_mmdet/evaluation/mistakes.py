"""What goes wrong: classes taken for each other, and what each kind of error costs in average precision."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from cxr_mmdet.evaluation.coco import run_coco
from cxr_mmdet.evaluation.tables import overlapping_pairs
from cxr_mmdet.scores import reaches

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cxr_mmdet.evaluation.tables import DetectionTable, TruthTable

TIDE_IOU, TIDE_BACKGROUND_IOU = 0.5, 0.1
"""TIDE's own: a hit from 0.5 on, background below 0.1."""

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
    """One kind of error: how often it occurs, and by how much AP@.5 rises when only that is mended."""

    name: str
    count: int
    cost: float


@dataclass(frozen=True)
class Confusion:
    """What was found where something is, at a score and an IoU.

    Attributes:
        names: the classes; row and column ``len(names)`` stand for background.
        counts: (classes + 1, classes + 1), rows what is there, columns what was said. The last column counts boxes
            that were missed, the last row detections where nothing is.
        score_threshold: detections below don't count; None: no detection counts.
        iou_threshold: a detection must overlap by more.
    """

    names: tuple[str, ...]
    counts: NDArray[np.int64]
    score_threshold: float | None
    iou_threshold: float

    def to_json(self) -> dict[str, Any]:
        """Return what ``metrics.json`` holds."""
        return {**vars(self), "names": list(self.names), "counts": self.counts.tolist()}


def split_errors(truth: TruthTable, found: DetectionTable) -> tuple[ErrorKind, ...]:
    """Return TIDE's six kinds of error, or nothing where no class has a box.

    TIDE calls a detection that isn't a hit *class* (right box, wrong class), *localisation* (right class, IoU 0.1…0.5),
    *both*, *duplicate*, or *background* (IoU below 0.1), and a box that no detection comes near *missed*. The costs
    don't add up: mending one error can make another one visible.
    """
    evaluation = run_coco(truth, found)
    if evaluation is None or truth.crowd.all():
        return ()
    tide = evaluation.tide_errors(pos_thr=TIDE_IOU, bg_thr=TIDE_BACKGROUND_IOU)
    return tuple(
        ErrorKind(name=name, count=int(tide["counts"][short]), cost=float(tide["delta_ap"][short]))
        for name, short in TIDE_NAMES.items()
    )


def confusion(
    truth: TruthTable, found: DetectionTable, *, score_threshold: float | None, iou_threshold: float
) -> Confusion:
    """Return the confusion matrix.

    The highest score first, each detection takes the free box of its class that it overlaps most; those that got none
    then look among the free boxes of other classes, so that two findings in one place aren't taken for a mistake.
    Crowd boxes are left out.
    """
    pairs = overlapping_pairs(truth, found, same_class=False)
    counted = reaches(found.scores, np.inf if score_threshold is None else score_threshold)
    near = (pairs.iou > iou_threshold) & counted[pairs.found] & ~truth.crowd[pairs.truth]
    detection, box, overlap = pairs.found[near], pairs.truth[near], pairs.iou[near]
    other_class = found.category_index[detection] != truth.category_index[box]
    order = np.lexsort((box, -overlap, detection, -found.scores[detection], other_class))
    box_of: dict[int, int] = {}
    taken: set[int] = set()
    for own, candidate in zip(detection[order].tolist(), box[order].tolist(), strict=True):
        if own not in box_of and candidate not in taken:
            box_of[own] = candidate
            taken.add(candidate)
    background = len(truth.names)
    counts = np.zeros((background + 1, background + 1), np.int64)
    shown = np.flatnonzero(counted)
    there = np.array([truth.category_index[box_of[own]] if own in box_of else background for own in shown.tolist()])
    np.add.at(counts, (there.astype(np.int64), found.category_index[shown]), 1)
    missed = np.setdiff1d(np.flatnonzero(~truth.crowd), np.fromiter(taken, np.int64, len(taken)))
    counts[:background, background] = np.bincount(truth.category_index[missed], minlength=background)
    return Confusion(names=truth.names, counts=counts, score_threshold=score_threshold, iou_threshold=iou_threshold)
