"""What to look at first: findings that were missed, false alarms that were sure, and where two detectors part."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cxr_mmdet.scores import reaches

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cxr_mmdet.evaluation.headline import MatchedDetections


@dataclass(frozen=True)
class Extreme:
    """A ground truth box or a detection to be shown.

    Attributes:
        image: place of its image in the ground truth's images.
        label: its class.
        row: place of the box in the annotations, or of the detection in the list of detections.
        score: the detection's, or the best of any detection that met the box, 0 where none did.
    """

    image: int
    label: int
    row: int
    score: float


def worst_misses(matched: MatchedDetections, score_threshold: float | None, count: int) -> list[Extreme]:
    """Return ground truth boxes that nothing at or above the threshold meets, one an image.

    The lowest score that was given to them first, boxes nothing met at all before all others; of those the largest.

    Args:
        matched: the detections; a box is met at IoU above 0.4.
        score_threshold: what counts as found; None: nothing does.
        count: how many at most.
    """
    best = best_scores(matched)
    truth = matched.truth
    missed = np.flatnonzero(~_shown(best, score_threshold) & ~truth.crowd)
    order = missed[np.lexsort((missed, -truth.areas[missed], best[missed]))]
    rows = _one_an_image(order, truth.image_index[order], count)
    return [Extreme(int(truth.image_index[row]), int(truth.category_index[row]), row, float(best[row])) for row in rows]


def worst_false_alarms(matched: MatchedDetections, score_threshold: float | None, count: int) -> list[Extreme]:
    """Return detections at or above the threshold that meet no box of their class, the surest first, one an image."""
    found = matched.found
    false = np.concatenate([[], *(entry.detection_index[entry.annotation_index < 0] for entry in matched.voc)])
    false = false.astype(np.int64)
    false = false[_shown(found.scores[false], score_threshold)]
    order = false[np.lexsort((false, -found.scores[false]))]
    rows = _one_an_image(order, found.image_index[order], count)
    return [
        Extreme(int(found.image_index[row]), int(found.category_index[row]), row, float(found.scores[row]))
        for row in rows
    ]


def best_scores(matched: MatchedDetections) -> NDArray[np.float64]:
    """Return (annotations,) the highest score of a detection that hits each box at IoU above 0.4; 0 where none does."""
    best = np.zeros(len(matched.truth.crowd))
    for entry in matched.voc:
        best[entry.annotation_index[entry.hits]] = entry.scores[entry.hits]
    return best


def found_by_one(
    finder: MatchedDetections, other: MatchedDetections, thresholds: tuple[float | None, float | None], count: int
) -> list[Extreme]:
    """Return boxes that ``finder`` finds at its threshold and ``other`` misses at its own, one an image.

    Those with the greatest distance of scores first. Where a threshold is undefined there are none: a detector that
    has no operating point neither finds nor misses.
    """
    if None in thresholds:
        return []
    own, others = best_scores(finder), best_scores(other)
    truth = finder.truth
    alone = np.flatnonzero(_shown(own, thresholds[0]) & ~_shown(others, thresholds[1]) & ~truth.crowd)
    order = alone[np.lexsort((alone, others[alone] - own[alone]))]
    rows = _one_an_image(order, truth.image_index[order], count)
    return [Extreme(int(truth.image_index[row]), int(truth.category_index[row]), row, float(own[row])) for row in rows]


def _shown(scores: NDArray[np.float64], threshold: float | None) -> NDArray[np.bool_]:
    return reaches(scores, np.inf if threshold is None else threshold)


def _one_an_image(rows: NDArray[np.int64], images: NDArray[np.int64], count: int) -> list[int]:
    """Return the first of ``rows`` of each image, at most ``count``."""
    _, first = np.unique(images, return_index=True)
    return rows[np.sort(first)][:count].tolist()
