"""Whether a score means what it says: of detections that score 0.7, are 70 % right?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cxr_mmdet.evaluation.matching import ClassMatches

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
        """Return what ``metrics.json`` holds."""
        rows = zip(self.counts.tolist(), self.scores.tolist(), self.precision.tolist(), strict=True)
        return {
            "ece": self.ece,
            "bins": [
                {"count": count, "score": score if count else None, "precision": precision if count else None}
                for count, score, precision in rows
            ],
        }


def calibrate(matches: ClassMatches, bins: int = BINS) -> Calibration:
    """Return how scores and precision go together.

    A duplicate is wrong, as for average precision. Where many detections score almost nothing, their bin rules the
    error (Guo et al., ICML 2017; for detectors, Küppers et al., CVPR workshops 2020): read it beside the curve.

    Args:
        matches: one class's detections, or all pooled.
        bins: of equal width over 0…1; a score on a border belongs to the upper bin, 1 to the last.
    """
    place = np.minimum((matches.scores * bins).astype(np.int64), bins - 1)
    counts = np.bincount(place, minlength=bins)
    nothing = np.full(bins, np.nan)
    return Calibration(
        name=matches.name,
        counts=counts,
        scores=np.divide(np.bincount(place, matches.scores, bins), counts, out=nothing.copy(), where=counts > 0),
        precision=np.divide(np.bincount(place, matches.hits, bins), counts, out=nothing.copy(), where=counts > 0),
    )
