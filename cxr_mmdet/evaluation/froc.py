"""FROC curve and the score thresholds that reach a sensitivity or a false-positive rate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from cxr_mmdet.evaluation.matching import ClassMatches
from cxr_mmdet.evaluation.voc import as_weights, operating_points
from cxr_mmdet.structures.scores import printed_threshold

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from cxr_mmdet.evaluation.voc import Weights


RATES = (1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8)
"""False positives per image at which LUNA16, and most papers after it, report the sensitivity."""

ALL_FINDINGS = "all findings"


@dataclass(frozen=True)
class FrocCurve:
    """FROC curve at the scores that hit a box, from the highest score down.

    Attributes:
        name: the class, or :data:`ALL_FINDINGS`.
        scores: (P,) thresholds, falling.
        false_positives: (P,) per image.
        sensitivity: (P,), 0…1.
    """

    name: str
    scores: NDArray[np.float64]
    false_positives: NDArray[np.float64]
    sensitivity: NDArray[np.float64]


def pool(matches: Sequence[ClassMatches]) -> ClassMatches:
    """Return all classes as one: every box is to be found, by a detection of its own class."""
    order = np.argsort(-_joined(matches, "scores", np.float64), kind="stable")
    searched = [entry.searched for entry in matches if entry.searched is not None]
    return ClassMatches(
        name=ALL_FINDINGS,
        scores=_joined(matches, "scores", np.float64)[order],
        hits=_joined(matches, "hits", np.bool_)[order],
        duplicates=_joined(matches, "duplicates", np.bool_)[order],
        image_index=_joined(matches, "image_index", np.int64)[order],
        detection_index=_joined(matches, "detection_index", np.int64)[order],
        annotation_index=_joined(matches, "annotation_index", np.int64)[order],
        positives=np.sum([entry.positives for entry in matches], axis=0, dtype=np.int64)
        if matches
        else np.zeros(0, np.int64),
        searched=np.mean(searched, axis=0) if searched else None,
    )


def sensitivities(
    matches: ClassMatches, weights: Weights | None = None, rates: Sequence[float] = RATES
) -> NDArray[np.float64]:
    """Return (rates, R) the highest sensitivity at each number of false positives per image or fewer.

    The curve is a staircase without interpolation. A second detection of a box is neither a hit nor a false positive
    (LUNA16; Setio et al., Medical Image Analysis 42, 2017). Detections of one
    score enter together.

    Args:
        matches: one class's detections, or all pooled.
        weights: weight of each image, (images,) or (R, images); 1 by default.
        rates: false positives per image.

    Returns:
        NaN where there is no box.
    """
    points = operating_points(matches, as_weights(weights, len(matches.positives)), count_duplicates=False)
    best = np.array(
        [
            np.where(points.false_positives <= rate * points.images, points.hits, 0).max(axis=0, initial=0)
            for rate in rates
        ]
    )
    return np.divide(best, points.positives, out=np.full_like(best, np.nan), where=points.positives > 0)


def froc_curve(matches: ClassMatches) -> FrocCurve:
    """Return the curve, which is empty where nothing is hit."""
    points = operating_points(matches, as_weights(None, len(matches.positives)), count_duplicates=False)
    return FrocCurve(
        name=matches.name,
        scores=points.scores,
        false_positives=points.false_positives[:, 0] / max(points.images[0], np.finfo(float).tiny),
        sensitivity=points.hits[:, 0] / points.positives[0],
    )


def _joined(matches: Sequence[ClassMatches], name: str, dtype: type[np.generic]) -> NDArray[Any]:
    return np.concatenate([np.zeros(0, dtype), *(getattr(entry, name) for entry in matches)])


@dataclass(frozen=True)
class Threshold:
    """Score threshold of one class and its effect; all but the name is ``None`` where no score reaches the goal.

    Attributes:
        name: the class.
        score: detections of this score and above are kept, as in prediction.
        printed: the score with the fewest decimals, at least three, that keep the same detections.
        sensitivity: share of the boxes found, 0…1.
        false_positives: per image.
    """

    name: str
    score: float | None
    printed: str | None
    sensitivity: float | None
    false_positives: float | None

    def to_json(self) -> dict[str, Any]:
        """Return the content of files, with the exact score."""
        return {key: value for key, value in vars(self).items() if key != "printed"}


def threshold_for_sensitivity(matches: ClassMatches, sensitivity: float) -> Threshold:
    """Return the highest threshold that finds at least this share of the boxes, if there is one."""
    curve = froc_curve(matches)
    reached = np.flatnonzero(curve.sensitivity >= sensitivity)
    return _threshold(curve, int(reached[0]) if len(reached) else None, matches)


def threshold_for_false_positives(matches: ClassMatches, rate: float) -> Threshold:
    """Return the threshold with the highest sensitivity at ``rate`` false positives per image or fewer.

    Of thresholds with equal sensitivity it is the highest. There is none if more false positives precede the first hit.
    """
    curve = froc_curve(matches)
    allowed = np.flatnonzero(curve.false_positives <= rate)
    return _threshold(curve, int(allowed[-1]) if len(allowed) else None, matches)


def _threshold(curve: FrocCurve, place: int | None, matches: ClassMatches) -> Threshold:
    if place is None:
        return Threshold(curve.name, None, None, None, None)
    return Threshold(
        name=curve.name,
        score=float(curve.scores[place]),
        printed=printed_threshold(float(curve.scores[place]), matches.scores),
        sensitivity=float(curve.sensitivity[place]),
        false_positives=float(curve.false_positives[place]),
    )
