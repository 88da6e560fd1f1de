"""The score to cut at for a wanted sensitivity, or for a bearable number of false alarms, class by class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from cxr_mmdet.evaluation.froc import froc_curve
from cxr_mmdet.scores import printed_threshold

if TYPE_CHECKING:
    from cxr_mmdet.evaluation.froc import FrocCurve
    from cxr_mmdet.evaluation.matching import ClassMatches


@dataclass(frozen=True)
class Threshold:
    """What a class's detections with at least this score are worth; all but the name ``None`` where nothing will do.

    Attributes:
        name: the class.
        score: keep detections of this score and above, as prediction does.
        printed: the score in as few decimals, three at least, as it takes to keep the same detections.
        sensitivity: the share of boxes found, 0…1.
        false_positives: an image.
    """

    name: str
    score: float | None
    printed: str | None
    sensitivity: float | None
    false_positives: float | None

    def to_json(self) -> dict[str, Any]:
        """Return what files hold: the score itself."""
        return {key: value for key, value in vars(self).items() if key != "printed"}


def threshold_for_sensitivity(matches: ClassMatches, sensitivity: float) -> Threshold:
    """Return the highest threshold that finds at least this share of the boxes; none if the detector never does."""
    curve = froc_curve(matches)
    reached = np.flatnonzero(curve.sensitivity >= sensitivity)
    return _threshold(curve, int(reached[0]) if len(reached) else None, matches)


def threshold_for_false_positives(matches: ClassMatches, rate: float) -> Threshold:
    """Return the threshold with the highest sensitivity at no more than ``rate`` false positives an image.

    Of those that find the same it is the highest. None if the first hit comes after more false positives.
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
