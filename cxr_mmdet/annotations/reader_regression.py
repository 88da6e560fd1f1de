"""Regressions for few rows of many classes: effects shared by all classes, and each class's deviation from them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.optimize import minimize

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Flags = NDArray[np.bool_]
    Indices = NDArray[np.int64]

QUANTILES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
"""Knots of each smooth feature: between them its effect is a straight line, and beyond the ends it stays the same."""
INTERCEPT, SMOOTH, LINEAR = (3.0, 3.0), (0.18, 0.08), (0.35, 0.25)
"""Prior deviations of an effect: shared by all classes, and of a class from it."""
RIDGE = 10.0
MAX_ITERATIONS = 150


@dataclass(frozen=True)
class Blocks:
    """Features of candidates: (K, F) smooth ones by name, and (K, M) blocks whose effects are linear."""

    smooth: Mapping[str, Floats]
    linear: tuple[Floats, ...]


@dataclass(frozen=True)
class Layer:
    """A regression on :class:`Blocks` with shared and class-specific effects.

    Attributes:
        names: the smooth features in use.
        linear: the linear blocks in use.
        knots: (F, Q) where the effect bends, of each smooth feature.
        centre: (F,).
        scale: (F,).
        weights: (classes, columns, outputs) effects, the shared ones included.
    """

    names: tuple[str, ...]
    linear: tuple[int, ...]
    knots: Floats
    centre: Floats
    scale: Floats
    weights: Floats

    @classmethod
    def prepare(cls, blocks: Blocks, names: Sequence[str] | None = None, linear: Sequence[int] | None = None) -> Layer:
        """Return a layer without weights whose knots lie where the features of ``blocks`` do."""
        names = tuple(names or blocks.smooth)
        columns = np.stack([blocks.smooth[name] for name in names])
        if not columns.shape[1]:  # nothing to learn of: every effect stays 0
            columns = np.zeros((len(names), 1))
        return cls(
            names=names,
            linear=tuple(range(len(blocks.linear)) if linear is None else linear),
            knots=np.quantile(columns, QUANTILES, axis=1).T,
            centre=columns.mean(axis=1),
            scale=columns.std(axis=1) + 1e-9,
            weights=np.zeros((0, 0, 0)),
        )

    def predict(self, blocks: Blocks, classes: Indices) -> Floats:
        """Return (K, outputs)."""
        outputs = np.zeros((len(classes), self.weights.shape[2]))
        columns = self._columns(blocks)
        for label in np.unique(classes).tolist():
            own = classes == label
            outputs[own] = columns[own] @ self.weights[label].astype(np.float32)
        return outputs

    def fit_logistic(self, blocks: Blocks, classes: Indices, hits: Flags, n_labels: int) -> Layer:
        """Return the layer that gives log odds of ``hits``."""
        order = np.argsort(classes, kind="stable")
        columns = self._columns(blocks)[order]
        signs = np.where(hits, 1.0, -1.0)[order]
        ends = np.searchsorted(classes[order], np.arange(n_labels + 1))
        parts = [slice(*pair) for pair in pairwise(ends.tolist())]
        shared, own = self._priors(blocks)

        def loss(flat: Floats) -> tuple[float, Floats]:
            weights = flat.reshape(1 + n_labels, -1)
            effects = (weights[0] * shared + weights[1:] * own).astype(np.float32)
            odds = np.concatenate([columns[part] @ effect for part, effect in zip(parts, effects, strict=True)])
            margins = signs * odds.astype(np.float64)
            slope = (-signs / (1 + np.exp(np.clip(margins, -500, 500)))).astype(np.float32)
            by_class = np.stack([slope[part] @ columns[part] for part in parts]).astype(np.float64)
            gradient = np.concatenate([(by_class.sum(axis=0) * shared)[None], by_class * own]) + weights
            return float(np.logaddexp(0, -margins).sum() + 0.5 * (flat @ flat)), gradient.reshape(-1)

        start = np.zeros((1 + n_labels) * columns.shape[1])
        options = {"maxiter": MAX_ITERATIONS, "maxcor": 20, "ftol": 1e-7}
        found = minimize(loss, start, jac=True, method="L-BFGS-B", options=options).x.reshape(1 + n_labels, -1)
        return replace(self, weights=(found[0] * shared + found[1:] * own)[:, :, None])

    def fit_linear(self, blocks: Blocks, classes: Indices, targets: Floats, n_labels: int) -> Layer:
        """Return the layer that gives ``targets`` (K, outputs) by ridge regression."""
        columns = self._columns(blocks).astype(np.float64)
        shared, own = self._priors(blocks)
        width = columns.shape[1]
        normal = np.zeros(((1 + n_labels) * width,) * 2)
        right = np.zeros(((1 + n_labels) * width, targets.shape[1]))
        for label in np.unique(classes).tolist():
            part, goal = columns[classes == label], targets[classes == label]
            squares, product = part.T @ part, part.T @ goal
            mine = slice((1 + label) * width, (2 + label) * width)
            normal[:width, :width] += np.outer(shared, shared) * squares
            normal[:width, mine] = np.outer(shared, own) * squares
            normal[mine, :width] = normal[:width, mine].T
            normal[mine, mine] = np.outer(own, own) * squares
            right[:width] += shared[:, None] * product
            right[mine] = own[:, None] * product
        normal[np.diag_indices_from(normal)] += RIDGE
        found = np.linalg.solve(normal, right).reshape(1 + n_labels, width, -1)
        return replace(self, weights=found[0] * shared[:, None] + found[1:] * own[:, None])

    def _columns(self, blocks: Blocks) -> NDArray[np.float32]:
        """Return (K, columns): 1, each smooth feature and its hinges, the linear blocks."""
        parts: list[Floats] = [np.ones((len(next(iter(blocks.smooth.values()))), 1), np.float32)]
        for place, name in enumerate(self.names):
            values = np.clip(blocks.smooth[name], self.knots[place, 0], self.knots[place, -1])
            hinges = np.maximum(values[:, None] - self.knots[place, 1:-1], 0)
            columns = np.column_stack([values - self.centre[place], hinges]) / self.scale[place]
            parts.append(columns.astype(np.float32))
        parts += [blocks.linear[place].astype(np.float32) for place in self.linear]
        return np.concatenate(parts, axis=1)

    def _priors(self, blocks: Blocks) -> tuple[Floats, Floats]:
        """Return (columns,) prior deviations of shared effects, and of a class's difference from them."""
        linear = sum(blocks.linear[place].shape[1] for place in self.linear)
        counts = (1, len(self.names) * (len(QUANTILES) - 1), linear)
        shared, own = (np.repeat(column, counts) for column in zip(INTERCEPT, SMOOTH, LINEAR, strict=True))
        return shared, own

    def to_json(self) -> dict[str, Any]:
        """Return what a file holds."""
        return {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in vars(self).items()}

    @classmethod
    def from_json(cls, entry: Mapping[str, Any], n_labels: int) -> Layer:
        """Return the layer of a file.

        Raises:
            ValueError: a number is missing, not finite, or there are too many.
        """
        names, linear = tuple(map(str, entry["names"])), tuple(map(int, entry["linear"]))
        knots, centre, scale, weights = (
            np.array(entry[name], dtype=np.float64) for name in ("knots", "centre", "scale", "weights")
        )
        shapes = (knots.shape, centre.shape, scale.shape, weights.shape[:1])
        expected = ((len(names), len(QUANTILES)), (len(names),), (len(names),), (n_labels,))
        if shapes != expected or weights.ndim != 3 or not all(map(np.all, map(np.isfinite, (knots, centre, weights)))):
            raise ValueError(f"a layer holds arrays of {shapes}, expected {expected}")
        return cls(names, linear, knots, centre, scale, weights)
