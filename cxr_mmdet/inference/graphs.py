"""The graphs of a bundle: their names, inputs and outputs, shared by those that write and those that run them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Array = NDArray[np.float32]

MAPS, REGIONS = "maps", "regions"
"""Backbone, neck and dense head; and, in two-stage detectors, RoI align and its head."""


ABNORMAL = "abnormal"
"""The output of an abnormality gate, where there is one: (N,) logits."""


def maps_outputs(levels: int, pyramid_levels: int, *, gate: bool = False) -> list[str]:
    """Return the names of what the first graph gives for its input ``image``."""
    return [
        *(f"scores_{level}" for level in range(levels)),
        *(f"deltas_{level}" for level in range(levels)),
        *(f"features_{level}" for level in range(pyramid_levels)),
        *[ABNORMAL] * gate,
    ]


def regions_inputs(pyramid_levels: int) -> list[str]:
    """Return the names of what the second graph takes; it gives ``logits`` and ``deltas``."""
    return [f"{kind}_{level}" for kind in ("features", "rois") for level in range(pyramid_levels)]


def split_maps(
    outputs: Sequence[Array], levels: int, *, gate: bool = False
) -> tuple[list[Array], list[Array], list[Array], Array | None]:
    """Return scores, deltas, the feature pyramid and the gate's logits out of the first graph's outputs."""
    maps, logits = (outputs[:-1], outputs[-1]) if gate else (outputs, None)
    return list(maps[:levels]), list(maps[levels : 2 * levels]), list(maps[2 * levels :]), logits


def region_inputs(
    pyramid: Sequence[Array], rois: Array, levels: NDArray[np.int64], count: int
) -> tuple[dict[str, Any], NDArray[np.int64]]:
    """Return the second graph's inputs, and which region each of its rows belongs to, -1 for none.

    The graph takes each level's regions apart. A level without any gets one that nobody looks at, since runtimes
    disagree about empty tensors.
    """
    inputs: dict[str, Any] = {f"features_{level}": features for level, features in enumerate(pyramid)}
    order = []
    for level in range(count):
        members = np.flatnonzero(levels == level)
        if len(members):
            inputs[f"rois_{level}"] = np.ascontiguousarray(rois[members], dtype=np.float32)
            order.append(members)
        else:
            inputs[f"rois_{level}"] = np.array([[0, 0, 0, 1, 1]], dtype=np.float32)
            order.append(np.array([-1]))
    return inputs, np.concatenate(order)


def unsort(outputs: Sequence[Array], order: NDArray[np.int64]) -> tuple[Array, Array]:
    """Return logits and deltas in the order of the regions."""
    rows = np.flatnonzero(order >= 0)
    rows = rows[np.argsort(order[rows], kind="stable")]
    logits, deltas = outputs
    return logits[rows], deltas[rows]
