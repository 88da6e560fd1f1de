"""Differences between two detectors on the same images, with intervals and p-values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from cxr_mmdet.evaluation.bootstrap import RESAMPLES, Interval, bootstrap, percentile_interval
from cxr_mmdet.evaluation.headline import HEADLINE, PER_CLASS, of_class, point_values, statistics

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from cxr_mmdet.evaluation.headline import MatchedDetections
    from cxr_mmdet.evaluation.voc import Weights

COMPARISON_SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Difference:
    """One score of two detectors.

    Attributes:
        first: score of the first detector, with its interval.
        second: score of the second.
        difference: second minus first, with the interval of the paired resamples.
        p: two-sided p-value; None where the difference is undefined.
    """

    first: Interval
    second: Interval
    difference: Interval
    p: float | None

    def to_json(self) -> dict[str, Any]:
        """Return the content of files."""
        return {
            "first": self.first.to_json(),
            "second": self.second.to_json(),
            "difference": self.difference.to_json(),
            "p": self.p,
        }


@dataclass(frozen=True)
class Comparison:
    """Every headline number of two detectors.

    Attributes:
        names: names of the detectors.
        values: by the names of :data:`HEADLINE` and, of each class, of :data:`PER_CLASS`.
        classes: the classes' names.
        images: number of images.
        groups: number of groups that were drawn from.
        resamples: number of draws.
        seed: seed of the draws.
    """

    names: tuple[str, str]
    values: Mapping[str, Difference]
    classes: tuple[str, ...]
    images: int
    groups: int
    resamples: int
    seed: int

    def to_json(self) -> dict[str, Any]:
        """Return the content of ``comparison.json``."""
        return {
            "schema_version": COMPARISON_SCHEMA_VERSION,
            "first": self.names[0],
            "second": self.names[1],
            "images": self.images,
            "bootstrap": {"groups": self.groups, "resamples": self.resamples, "seed": self.seed},
            **{name: self.values[name].to_json() for name in HEADLINE},
            "per_class": [
                {"name": label, **{name: self.values[of_class(name, place)].to_json() for name in PER_CLASS}}
                for place, label in enumerate(self.classes)
            ],
        }


def compare(
    first: MatchedDetections,
    second: MatchedDetections,
    names: tuple[str, str] = ("A", "B"),
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Comparison:
    """Return the differences of two detectors that were matched against the same ground truth.

    Each draw of patients is scored for both, so that images that are hard for both cancel out. The p-value is twice
    the smaller share of resamples on one side of 0, with the observation counted as one (Davison and Hinkley, Bootstrap
    Methods and their Application, 1997, section 4.2): at least 2 / (resamples + 1).
    """

    def both(weights: Weights) -> dict[str, NDArray[np.float64]]:
        one, two = statistics(first, weights), statistics(second, weights)
        return {f"1 {name}": value for name, value in one.items()} | {f"2 {name}": two[name] for name in one}

    samples = bootstrap(both, first.groups, resamples=resamples, seed=seed)
    groups = len(np.unique(first.groups))
    values = point_values(first), point_values(second)
    return Comparison(
        names=names,
        values={
            name: _difference(
                (values[0][name], values[1][name]),
                (samples.get(f"1 {name}", np.zeros(0)), samples.get(f"2 {name}", np.zeros(0))),
                groups,
            )
            for name in values[0]
        },
        classes=first.truth.names,
        images=len(first.truth.image_ids),
        groups=groups,
        resamples=resamples,
        seed=seed,
    )


def _difference(
    values: tuple[float | None, float | None],
    samples: tuple[NDArray[np.float64], NDArray[np.float64]],
    groups: int,
) -> Difference:
    difference = None if values[0] is None or values[1] is None else values[1] - values[0]
    apart = samples[1] - samples[0]
    return Difference(
        first=percentile_interval(values[0], samples[0], groups=groups),
        second=percentile_interval(values[1], samples[1], groups=groups),
        difference=percentile_interval(difference, apart, groups=groups),
        p=None if difference is None or groups < 2 else _p_value(apart),
    )


def _p_value(differences: NDArray[np.float64]) -> float | None:
    defined = differences[~np.isnan(differences)]
    if not len(defined):
        return None
    fewer = min(int((defined <= 0).sum()), int((defined >= 0).sum()))
    return min(1.0, 2 * (fewer + 1) / (len(defined) + 1))
