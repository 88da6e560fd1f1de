"""Free-response ROC: how many findings are found at how many false alarms an image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from cxr_mmdet.evaluation.counting import as_weights, operating_points
from cxr_mmdet.evaluation.matching import ClassMatches

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from cxr_mmdet.evaluation.counting import Weights

RATES = (1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8)
"""False positives an image at which LUNA16 and most papers since report the sensitivity."""

ALL_FINDINGS = "all findings"


@dataclass(frozen=True)
class FrocCurve:
    """A FROC curve: where something is hit, from the highest score down.

    Attributes:
        name: the class, or :data:`ALL_FINDINGS`.
        scores: (P,) thresholds, falling.
        false_positives: (P,) an image.
        sensitivity: (P,), 0…1.
    """

    name: str
    scores: NDArray[np.float64]
    false_positives: NDArray[np.float64]
    sensitivity: NDArray[np.float64]


def pool(matches: Sequence[ClassMatches]) -> ClassMatches:
    """Return the classes as one: every box of any class is to be found, by a detection of its own class."""
    order = np.argsort(-_joined(matches, "scores", np.float64), kind="stable")
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
    )


def sensitivities(
    matches: ClassMatches, weights: Weights | None = None, rates: Sequence[float] = RATES
) -> NDArray[np.float64]:
    """Return (rates, R) the highest sensitivity at no more than each number of false positives an image.

    The curve is a staircase, and no value between its steps is made up. A second detection of a box that was found is
    neither a finding nor a false positive (LUNA16; Setio et al., Medical Image Analysis 42, 2017). Detections of one
    score enter together.

    Args:
        matches: one class's detections, or all pooled.
        weights: how often each image counts, (images,) or (R, images); once each by default.
        rates: false positives an image.

    Returns:
        NaN where there is no box to be found.
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
    """Return the whole curve; it is empty where nothing is hit."""
    points = operating_points(matches, as_weights(None, len(matches.positives)), count_duplicates=False)
    return FrocCurve(
        name=matches.name,
        scores=points.scores,
        false_positives=points.false_positives[:, 0] / points.images[0],
        sensitivity=points.hits[:, 0] / points.positives[0],
    )


def _joined(matches: Sequence[ClassMatches], name: str, dtype: type[np.generic]) -> NDArray[Any]:
    return np.concatenate([np.zeros(0, dtype), *(getattr(entry, name) for entry in matches)])
