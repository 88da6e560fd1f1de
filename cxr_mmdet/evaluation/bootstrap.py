"""Uncertainty of scores over patients: percentile bootstrap over groups, by weights instead of copies."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from numpy.typing import NDArray

    from cxr_mmdet.structures.coco import CocoDict

    Statistics = Callable[[NDArray[np.int32]], Mapping[str, NDArray[np.float64]]]

RESAMPLES = 1000
LEVEL = 0.95
RESAMPLES_AT_ONCE = 50
"""Resamples per block, which bounds the memory: 50 weights per image and a few numbers per resample and hit."""


@dataclass(frozen=True)
class Interval:
    """Score and the interval that holds 95 % of its resamples; ``None`` where it is undefined."""

    value: float | None
    low: float | None
    high: float | None

    def to_json(self) -> dict[str, float | None]:
        """Return the content of files."""
        return dict(vars(self))


def group_index(ground_truth: CocoDict) -> NDArray[np.int64]:
    """Return (images,) the number of each image's group, in file order.

    The group is the image entry's ``group``, the patient in our own files; an image without one is its own group.
    """
    keys = [("group", image["group"]) if "group" in image else ("id", image["id"]) for image in ground_truth["images"]]
    numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    return np.array([numbers[key] for key in keys], dtype=np.int64)


def resampling_weights(
    groups: NDArray[np.int64], *, resamples: int = RESAMPLES, seed: int = 0, at_once: int = RESAMPLES_AT_ONCE
) -> Iterator[NDArray[np.int32]]:
    """Yield (up to ``at_once``, images) multiplicities of the images in ``resamples`` draws of groups with replacement.

    Each draw takes as many groups as there are, and all images of a group together. The draws depend only on
    ``seed`` and the number of groups, not on ``at_once``.

    Args:
        groups: (images,) group numbers from 0.
        resamples: number of draws.
        seed: seed of the draws.
        at_once: rows of one array.
    """
    random = np.random.default_rng(seed)
    count = int(groups.max()) + 1 if len(groups) else 0
    for start in range(0, resamples, at_once):
        rows = min(at_once, resamples - start)
        if not count:
            yield np.zeros((rows, 0), np.int32)
            continue
        drawn = random.multinomial(count, np.full(count, 1 / count), size=rows)
        yield drawn[:, groups].astype(np.int32)


def bootstrap(
    statistics: Statistics,
    groups: NDArray[np.int64],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    at_once: int = RESAMPLES_AT_ONCE,
) -> dict[str, NDArray[np.float64]]:
    """Return (resamples,) values of every statistic.

    Args:
        statistics: function of (R, images) weights that returns (R,) values by name, NaN where undefined.
        groups: (images,) group numbers, from :func:`group_index`.
        resamples: number of draws.
        seed: seed of the draws; the same seed gives the same draws for two detectors on the same images.
        at_once: draws per call of ``statistics``.
    """
    parts: dict[str, list[NDArray[np.float64]]] = defaultdict(list)
    for weights in resampling_weights(groups, resamples=resamples, seed=seed, at_once=at_once):
        for name, values in statistics(weights).items():
            parts[name].append(values)
    return {name: np.concatenate(values) for name, values in parts.items()}


def percentile_interval(
    value: float | None, samples: NDArray[np.float64], *, groups: int, level: float = LEVEL
) -> Interval:
    """Return ``value`` with the interval that holds the central ``level`` of its resamples.

    The percentile method (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13). Resamples in which
    the score is undefined (NaN) are left out. There is no interval without a value, or where a single group leaves
    nothing to draw from.

    Args:
        value: the score itself.
        samples: (resamples,).
        groups: number of groups that were drawn from.
        level: share of the resamples that the interval holds.
    """
    defined = samples[~np.isnan(samples)]
    if value is None or groups < 2 or not len(defined):
        return Interval(value, None, None)
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2]).tolist()
    return Interval(value, low, high)
