"""Draw frequency of each radiograph: rare findings more often, normal studies in a fixed share."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np

from cxr_mmdet.errors import ConfigError
from cxr_mmdet.structures.coverage import COVERAGE_KEY, Coverage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

_FINEST_SHARE = 10_000

UNDECIDED_KEY = "undecided"
"""Key that marks an entry of which nobody knows whether it is normal or abnormal.

It has no box, but regions to ignore, or a class that was not looked for.
"""


@dataclass(frozen=True)
class DrawPlan:
    """Entries of the training set and their draw frequencies; a virtual copy is an entry of its own.

    Attributes:
        labels: per entry the label of each of its boxes; none for a normal study.
        classes: the names of the labels.
        class_factors: (C,) float, at least 1: how often a class asks to be repeated.
        factors: (N,) float, at least 1: how often an entry stands in one pass, on average. 1 for a normal study.
        normal_share: the share of normal studies among the draws; None leaves it to their number.
        repeat_threshold: the frequency below which a class is repeated; None repeats nothing.
    """

    labels: tuple[tuple[int, ...], ...]
    classes: tuple[str, ...]
    class_factors: NDArray[np.float64]
    factors: NDArray[np.float64]
    normal_share: Fraction | None = None
    repeat_threshold: float | None = None
    undecided: frozenset[int] = frozenset()
    """Entries of which nobody knows whether they are normal; they are drawn among the abnormal ones."""
    known: NDArray[np.bool_] | None = None
    """(N, C) whether an entry shows presence or absence of a class; None where the data are fully labelled."""

    @property
    def normal(self) -> NDArray[np.bool_]:
        """(N,) whether an entry is a normal study: it holds no box, and is known to."""
        return np.array(
            [not labels and index not in self.undecided for index, labels in enumerate(self.labels)], dtype=bool
        )

    def holding(self, label: int) -> NDArray[np.bool_]:
        """(N,) whether an entry holds a box of this label."""
        return np.array([label in labels for labels in self.labels], dtype=bool)

    def shares(self) -> NDArray[np.float64]:
        """(N,) the share of all draws that each entry gets in the long run; they sum to 1."""
        weights = self.factors
        if self.normal_share is not None:
            normal, wanted = self.normal, float(self.normal_share)
            weights = np.where(normal, 0.0, weights / weights[~normal].sum()) * (1 - wanted)
            if wanted:
                weights[normal] = wanted / normal.sum()
        return weights / weights.sum()


def plan_draws(
    dataset: Any,
    *,
    repeat_threshold: float | None = None,
    repeat_classes: Sequence[str] | None = None,
    normal_share: float | None = None,
) -> DrawPlan:
    """Return the plan of draws from ``dataset``.

    LVIS's repeat factors (Gupta et al. 2019, appendix B): a class in a share f of the images asks for
    r = max(1, sqrt(t / f)), an image gets the largest r of its classes. Here f is taken over the entries that hold any
    finding, so that the factors weigh findings against each other, however many normal studies there are; those are
    weighed by ``normal_share``. Entries that do not show whether they hold a class do not count for it. Virtual copies
    count, as they are drawn: what copies made less rare is repeated less.

    Args:
        dataset: what has ``metainfo['classes']`` and ``get_cat_ids``.
        repeat_threshold: t, above 0 and at most 1.
        repeat_classes: the classes that may ask for repetition; all by default.
        normal_share: from 0 (no normal study is drawn) to below 1; four decimals count.

    Raises:
        ConfigError: a value out of its range, a class without a box to repeat, or a share of what the data lacks.
    """
    if not hasattr(dataset, "get_cat_ids"):
        raise ConfigError(
            f"sampler: repeat_threshold and normal_share need to know what an image holds, {type(dataset).__name__} "
            "does not tell (get_cat_ids); use CxrDataset or MinorityAugmentedDataset, or remove them."
        )
    classes = tuple(dataset.metainfo["classes"])
    labels = tuple(tuple(dataset.get_cat_ids(index)) for index in range(len(dataset)))
    entries = [
        dataset.get_data_info(index) if hasattr(dataset, "get_data_info") else {} for index in range(len(labels))
    ]
    known = _known(entries, labels)
    class_factors = np.ones(len(classes))
    if repeat_threshold is not None:
        chosen = _chosen_labels(classes, repeat_classes)
        class_factors[chosen] = _class_factors(labels, known, classes, chosen, repeat_threshold)
    elif repeat_classes is not None:
        raise ConfigError("sampler: repeat_classes has no effect without repeat_threshold; set it, to 0.2 for example.")
    undecided = frozenset(
        index for index, entry in enumerate(entries) if not labels[index] and entry.get(UNDECIDED_KEY, False)
    )
    share = None if normal_share is None else _checked_share(labels, len(undecided), normal_share)
    factors = np.array([max((class_factors[label] for label in entry), default=1.0) for entry in labels])
    return DrawPlan(labels, classes, class_factors, factors, share, repeat_threshold, undecided, known)


def _known(entries: Sequence[dict[str, Any]], labels: tuple[tuple[int, ...], ...]) -> NDArray[np.bool_] | None:
    stated = next((entry[COVERAGE_KEY] for entry in entries if COVERAGE_KEY in entry), None)
    if stated is None:
        return None
    full = np.full_like(stated, Coverage.EXHAUSTIVE)
    known = np.stack([entry.get(COVERAGE_KEY, full) for entry in entries]) == Coverage.EXHAUSTIVE
    for row, held in zip(known, labels, strict=True):
        row[list(held)] = True
    return None if known.all() else known


def _chosen_labels(classes: tuple[str, ...], names: Sequence[str] | None) -> list[int]:
    names = [names] if isinstance(names, str) else names  # one name from --cfg-options is no list
    unknown = [name for name in names or () if name not in classes]
    if unknown:
        raise ConfigError(
            f"sampler: repeat_classes holds {', '.join(unknown)}, the data {', '.join(classes)}; correct the name."
        )
    return [label for label, name in enumerate(classes) if names is None or name in names]


def _class_factors(
    labels: tuple[tuple[int, ...], ...],
    known: NDArray[np.bool_] | None,
    classes: tuple[str, ...],
    chosen: list[int],
    threshold: float,
) -> NDArray[np.float64]:
    """Return r of each chosen class."""
    if not 0 < threshold <= 1:
        raise ConfigError(f"sampler: repeat_threshold is {threshold}, expected above 0 and at most 1, such as 0.2.")
    images = np.array([sum(label in entry for entry in labels) for label in chosen])
    empty = [classes[label] for label, count in zip(chosen, images, strict=True) if count == 0]
    if empty:
        raise ConfigError(
            f"sampler: repeat_threshold={threshold} asks to repeat {', '.join(empty)}, of which the training images "
            "hold no box; name the classes to repeat in the sampler's repeat_classes, or prepare the data without it."
        )
    abnormal = np.array([bool(entry) for entry in labels])
    all_images = abnormal.sum() if known is None else known[abnormal].sum(axis=0)[chosen]
    return np.maximum(1, np.sqrt(threshold * all_images / images))


def _checked_share(labels: tuple[tuple[int, ...], ...], undecided: int, share: float) -> Fraction:
    if not 0 <= share < 1:
        raise ConfigError(f"sampler: normal_share is {share}, expected from 0 to below 1; 0.25 is every fourth image.")
    abnormal = sum(map(bool, labels))
    if abnormal == 0:
        raise ConfigError(
            f"sampler: normal_share={share} leaves the rest to images with findings, and none of the {len(labels)} "
            "training images has a box; remove normal_share, or check what was prepared."
        )
    if share > 0 and abnormal + undecided == len(labels):
        has = "has a box or was not looked through for all classes" if undecided else "has a box"
        raise ConfigError(
            f"sampler: normal_share={share} asks for normal studies, and each of the {len(labels)} training images "
            f"{has}; prepare the data without --drop-normals, or remove normal_share."
        )
    return Fraction(share).limit_denominator(_FINEST_SHARE)
