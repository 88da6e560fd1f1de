"""From a network's raw maps to boxes: one code for every backend, equal to mmdet's but for rounding."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from cxr_mmdet.inference.spec import DistanceCoder
from cxr_mmdet.structures.boxes import suppress
from cxr_mmdet.structures.scores import reaches

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from cxr_mmdet.inference.spec import AnchorMaps, DeltaCoder, Regions

    Map = NDArray[np.float32]
    Moves = Callable[[Sequence[NDArray[np.int64]]], Sequence[NDArray[np.float32]]]

MAX_LOG_RATIO = abs(math.log(16 / 1000))
"""A side grows or shrinks by at most this factor (mmdet's ``wh_ratio_clip``)."""

_MARGIN = 1e-3
"""Logits are compared with the threshold's before the sigmoid, this much below it; scores are compared after."""

_CLEAR = 0.999
"""Of higher thresholds this one's logit is taken: towards 1 many logits share one score in single precision."""


@dataclass(frozen=True, eq=False)
class Boxes:
    """Decoded boxes (N, 4) in pixels of some picture, with their class (or level) and score, best score first.

    ``p_abnormal`` is what an abnormality gate says of the picture; None without a gate.
    """

    boxes_xyxy: NDArray[np.float32]
    labels: NDArray[np.int64]
    scores: NDArray[np.float32]
    p_abnormal: float | None = None

    def take(self, indices: NDArray[Any]) -> Boxes:
        """Return the boxes at these places."""
        return Boxes(self.boxes_xyxy[indices], self.labels[indices], self.scores[indices], self.p_abnormal)


def decode_maps(
    spec: AnchorMaps,
    scores: Sequence[Map],
    deltas: Moves,
    size_hw: tuple[int, int],
    score_thresholds: NDArray[np.float32] | None,
) -> Boxes:
    """Return the boxes of one picture before suppression, in pixels of the input.

    Args:
        spec: of the maps.
        scores: (A * K, H, W) logits, one map a level.
        deltas: of the anchors that are asked for; see :meth:`cxr_mmdet.inference.cpu_kernels.on_demand.Deltas.at`.
        size_hw: of the picture inside the input; boxes are cut there.
        score_thresholds: (K,) that a score of each class must reach; None for proposals, whose ``labels`` are their
            levels.
    """
    chosen = [_choose(logits, spec, score_thresholds) for logits in scores]
    moves = deltas([places for places, _, _ in chosen])
    found = []
    for level, ((places, labels, values), wanted) in enumerate(zip(chosen, moves, strict=True)):
        anchors = _anchors_at(spec, level, places, scores[level].shape[2])
        if score_thresholds is None:
            labels = np.full(len(places), level, dtype=np.int64)
        if isinstance(spec.coder, DistanceCoder):
            boxes = decode_distances(spec.coder, anchors, wanted, spec.strides[level], size_hw)
        else:
            boxes = decode_deltas(spec.coder, anchors, wanted, size_hw)
        found.append(Boxes(boxes, labels, values))
    return Boxes(
        np.concatenate([part.boxes_xyxy for part in found]),
        np.concatenate([part.labels for part in found]),
        np.concatenate([part.scores for part in found]),
    )


def keep_best(found: Boxes, nms_iou: float, max_per_image: int, min_size: float = -1) -> Boxes:
    """Return what suppression leaves, the best first, without boxes of at most ``min_size`` pixels a side."""
    if min_size >= 0:
        sides = found.boxes_xyxy[:, 2:] - found.boxes_xyxy[:, :2]
        found = found.take(np.flatnonzero(np.all(sides > min_size, axis=1)))
    return found.take(suppress(found.boxes_xyxy, found.scores, found.labels, nms_iou, max_per_image))


def propose(spec: AnchorMaps, scores: Sequence[Map], deltas: Moves, size_hw: tuple[int, int]) -> NDArray[np.float32]:
    """Return the (R, 4) proposals of one picture, the best first; arguments as :func:`decode_maps` takes them."""
    found = decode_maps(spec, scores, deltas, size_hw, None)
    return keep_best(found, spec.nms_iou, spec.max_per_image, spec.min_size).boxes_xyxy


def decode_regions(
    spec: Regions,
    regions_xyxy: NDArray[np.float32],
    logits: Map,
    deltas: Map,
    size_hw: tuple[int, int],
    score_thresholds: NDArray[np.float32],
) -> Boxes:
    """Return the boxes of one picture's regions before suppression, in pixels of the input.

    Args:
        spec: of the second stage.
        regions_xyxy: (R, 4).
        logits: (R, K + 1), background last.
        deltas: (R, 4 * K), or (R, 4) where ``spec.class_agnostic``.
        size_hw: of the picture inside the input; boxes are cut there.
        score_thresholds: (K,).
    """
    scores = softmax(logits)[:, :-1]
    places, labels = np.nonzero(reaches(scores, score_thresholds))
    columns = np.zeros_like(labels) if spec.class_agnostic else labels
    chosen = deltas.reshape(len(deltas), -1, 4)[places, columns]
    boxes = decode_deltas(spec.coder, regions_xyxy[places], chosen, size_hw)
    return Boxes(boxes, labels.astype(np.int64), scores[places, labels])


def decode_deltas(
    coder: DeltaCoder, boxes_xyxy: NDArray[np.float32], deltas: NDArray[np.float32], size_hw: tuple[int, int]
) -> NDArray[np.float32]:
    """Return the (N, 4) boxes moved and stretched by their (N, 4) deltas, in the order of mmdet's arithmetic."""
    moves = deltas * np.array(coder.stds, dtype=np.float32) + np.array(coder.means, dtype=np.float32)
    centres = (boxes_xyxy[:, :2] + boxes_xyxy[:, 2:]) * np.float32(0.5)
    sides = boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]
    centres = centres + sides * moves[:, :2]
    limit = np.float32(MAX_LOG_RATIO)
    halves = sides * np.exp(np.clip(moves[:, 2:], -limit, limit)) * np.float32(0.5)
    decoded = np.concatenate([centres - halves, centres + halves], axis=1)
    return _clipped(decoded, size_hw) if coder.clip_border else decoded


def decode_distances(
    coder: DistanceCoder,
    boxes_xyxy: NDArray[np.float32],
    distances: NDArray[np.float32],
    stride: tuple[int, int],
    size_hw: tuple[int, int],
) -> NDArray[np.float32]:
    """Return the (N, 4) boxes that (N, 4) distances, in cells of ``stride``, span around the centres of anchors."""
    centres = (boxes_xyxy[:, :2] + boxes_xyxy[:, 2:]) * np.float32(0.5)
    low, high = np.split(distances * np.array([*stride, *stride], dtype=np.float32), 2, axis=1)
    decoded = np.concatenate([centres - low, centres + high], axis=1)
    return _clipped(decoded, size_hw) if coder.clip_border else decoded


def level_of_regions(spec: Regions, regions_xyxy: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return the (R,) pyramid level that each region is taken from."""
    sides = regions_xyxy[:, 2:] - regions_xyxy[:, :2]
    scale = np.sqrt(sides[:, 0] * sides[:, 1])
    levels = np.floor(np.log2(scale / np.float32(spec.finest_scale) + np.float32(1e-6)))
    return np.clip(levels, 0, spec.levels - 1).astype(np.int64)


def sigmoid(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return 1 / (1 + exp(-x)) without overflow."""
    return np.float32(1) / (np.float32(1) + np.exp(-np.maximum(logits, np.float32(-80))))


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the softmax over the last axis."""
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True, initial=-np.inf))
    return powers / powers.sum(axis=-1, keepdims=True)


def _clipped(boxes_xyxy: NDArray[np.float32], size_hw: tuple[int, int]) -> NDArray[np.float32]:
    height, width = size_hw
    return np.clip(boxes_xyxy, 0, np.array([width, height, width, height], dtype=np.float32))


def _choose(
    logits: Map, spec: AnchorMaps, thresholds: NDArray[np.float32] | None
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """Return anchor, class and score of what goes on from one level, best score first."""
    places, labels, values = _best(logits.transpose(1, 2, 0).reshape(-1, spec.channels), spec, thresholds)
    order = np.argsort(-values, kind="stable")[: spec.nms_pre if spec.nms_pre > 0 else None]
    return places[order], labels[order], values[order]


def _best(
    table: NDArray[np.float32], spec: AnchorMaps, thresholds: NDArray[np.float32] | None
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """Return anchor, class and score of what reaches the thresholds, or for proposals among the best."""
    if thresholds is None:
        objectness = table[:, 0] if spec.activation == "sigmoid" else softmax(table)[:, 0]
        places = _largest(objectness, spec.nms_pre)
        scores = sigmoid(objectness[places]) if spec.activation == "sigmoid" else objectness[places]
        return places, np.zeros_like(places), scores
    if spec.activation == "softmax":
        probabilities = softmax(table)[:, :-1]
        places, labels = np.nonzero(reaches(probabilities, thresholds))
        return places, labels, probabilities[places, labels]
    # Nearly all anchors see background: their sigmoid is never computed.
    with np.errstate(divide="ignore"):
        clipped = np.minimum(thresholds, np.float32(_CLEAR))
        limits = np.log(clipped / (1 - clipped)) - np.float32(_MARGIN)
    places, labels = np.nonzero(reaches(table, limits))
    scores = sigmoid(table[places, labels])
    above = reaches(scores, thresholds[labels])
    return places[above], labels[above], scores[above]


def _largest(values: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    if 0 < count < len(values):
        return np.argpartition(-values, count - 1)[:count]
    return np.arange(len(values))


def _anchors_at(spec: AnchorMaps, level: int, places: NDArray[np.int64], width: int) -> NDArray[np.float32]:
    """Return the anchors whose rows of the table of (row, column, anchor) are ``places``."""
    base = spec.anchors(level)
    cells, which = np.divmod(places, len(base))
    rows, columns = np.divmod(cells, width)
    stride_x, stride_y = spec.strides[level]
    x, y = (columns * stride_x).astype(np.float32), (rows * stride_y).astype(np.float32)
    return base[which] + np.stack([x, y, x, y], axis=1)
