"""Decoding of a network's raw maps into detections, shared by all backends and equal to mmdet's but for rounding."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from cxr_mmdet.inference.spec import DistanceCoder
from cxr_mmdet.structures.detections import Detections
from cxr_mmdet.structures.scores import reaches

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from cxr_mmdet.inference.spec import AnchorMaps, DeltaCoder, Queries, Regions, Spec

    Map = NDArray[np.float32]
    DeltasAt = Callable[[Sequence[NDArray[np.int64]]], Sequence[NDArray[np.float32]]]

MAX_LOG_RATIO = abs(math.log(16 / 1000))
"""Logarithm of the factor by which a side grows or shrinks at most (mmdet's ``wh_ratio_clip``)."""

_MARGIN = 1e-3
"""Distance below a threshold's logit at which logits pass to the sigmoid; the scores themselves are compared after."""

_HIGHEST_LOGIT_THRESHOLD = 0.999
"""Thresholds above this one use its logit: towards 1 many logits share one score in single precision."""


def decode_maps(
    spec: AnchorMaps,
    scores: Sequence[Map],
    deltas_at: DeltasAt,
    size_hw: tuple[int, int],
    score_thresholds: NDArray[np.float32] | None,
) -> Detections:
    """Return the candidates of one image before NMS, in pixels of the input.

    Args:
        spec: description of the maps.
        scores: (A * K, H, W) logits, one map per level.
        deltas_at: returns the deltas of given anchors; see :meth:`cxr_mmdet.inference.cpu_kernels.on_demand.Deltas.at`.
        size_hw: size of the image inside the input, to which boxes are clipped.
        score_thresholds: (K,) lowest score of each class; None for proposals, whose ``labels`` are their levels and
            whose ``scores`` are logits.
    """
    selected = [_select_anchors(logits, spec, score_thresholds) for logits in scores]
    deltas = deltas_at([indices for indices, _, _ in selected])
    levels = []
    for level, ((indices, labels, values), level_deltas) in enumerate(zip(selected, deltas, strict=True)):
        anchors = _anchors_at(spec, level, indices, scores[level].shape[2])
        if score_thresholds is None:
            labels = np.full(len(indices), level, dtype=np.int64)
        if isinstance(spec.coder, DistanceCoder):
            unit = (1, 1) if spec.coder.in_pixels else spec.strides[level]
            boxes = decode_distances(spec.coder, anchors, level_deltas[:, :4], unit, size_hw)
        else:
            boxes = decode_deltas(spec.coder, anchors, level_deltas[:, :4], size_hw)
        if spec.centerness:
            values = values * sigmoid(level_deltas[:, 4])
        levels.append(Detections(boxes, labels, values))
    candidates = Detections.concatenate(levels)
    if not spec.centerness or score_thresholds is None:
        return candidates
    return candidates[reaches(candidates.scores, score_thresholds[candidates.labels])]


def decode_queries(
    spec: Queries,
    scores: Sequence[Map],
    deltas_at: DeltasAt,
    size_hw: tuple[int, int],
    score_thresholds: NDArray[np.float32],
) -> Detections:
    """Return the best pairs of query and class of one image; arguments as :func:`decode_maps` takes them."""
    values = sigmoid(scores[0].transpose(1, 2, 0).reshape(-1))
    best = np.argsort(-values, kind="stable")[: spec.max_per_image]
    # After the selection, so that the threshold of one class does not make room for another.
    best = best[reaches(values[best], score_thresholds[best % spec.channels])]
    indices, labels = np.divmod(best, spec.channels)
    centres, sides = np.split(deltas_at([indices])[0][:, :4], 2, axis=1)
    boxes = np.concatenate([centres - np.float32(0.5) * sides, centres + np.float32(0.5) * sides], axis=1)
    boxes = boxes * np.array([*size_hw[::-1], *size_hw[::-1]], dtype=np.float32)
    return Detections(_clip(boxes, size_hw), labels, values[best])


def apply_nms(spec: AnchorMaps | Spec, candidates: Detections, nms_iou: float) -> Detections:
    """Return what NMS keeps of one image's candidates, without boxes that are too small, the highest score first."""
    if spec.min_size >= 0:
        sides = candidates.boxes_xyxy[:, 2:] - candidates.boxes_xyxy[:, :2]
        candidates = candidates[np.all(sides > spec.min_size, axis=1)]
    return candidates.nms(nms_iou, spec.max_per_image)


def propose(
    spec: AnchorMaps, scores: Sequence[Map], deltas_at: DeltasAt, size_hw: tuple[int, int]
) -> NDArray[np.float32]:
    """Return the (R, 4) proposals of one image, the best first; arguments as :func:`decode_maps` takes them."""
    candidates = decode_maps(spec, scores, deltas_at, size_hw, None)
    return apply_nms(spec, candidates, spec.nms_iou).boxes_xyxy.astype(np.float32, copy=False)


def decode_regions(
    spec: Regions,
    regions_xyxy: NDArray[np.float32],
    logits: Map,
    deltas: Map,
    size_hw: tuple[int, int],
    score_thresholds: NDArray[np.float32],
) -> Detections:
    """Return the candidates of one image's regions before NMS, in pixels of the input.

    Args:
        spec: description of the second stage.
        regions_xyxy: (R, 4) boxes that the last stage pooled.
        logits: (R, K + 1), background last; of a cascade, the mean over its stages.
        deltas: (R, 4 * K), or (R, 4) where ``spec.class_agnostic``.
        size_hw: size of the image inside the input, to which boxes are clipped.
        score_thresholds: (K,) lowest score of each class.
    """
    scores = softmax(logits)[:, :-1]
    indices, labels = np.nonzero(reaches(scores, score_thresholds))
    columns = np.zeros_like(labels) if spec.class_agnostic else labels
    class_deltas = deltas.reshape(len(deltas), -1, 4)[indices, columns]
    boxes = decode_deltas(spec.coder, regions_xyxy[indices], class_deltas, size_hw)
    return Detections(boxes, labels, scores[indices, labels])


def refine_regions(
    spec: Regions,
    stage: int,
    regions_xyxy: NDArray[np.float32],
    logits: Map,
    deltas: Map,
    size_hw: tuple[int, int],
) -> NDArray[np.float32]:
    """Return the (R, 4) boxes that the next stage of a cascade pools; arguments as :func:`decode_regions` takes them.

    Where each class has its own deltas, those of the likeliest class move the box.
    """
    columns = 0 if spec.class_agnostic else logits[:, :-1].argmax(axis=1)
    likeliest = deltas.reshape(len(deltas), -1, 4)[np.arange(len(deltas)), columns]
    return decode_deltas(spec.refining[stage], regions_xyxy, likeliest, size_hw)


def decode_deltas(
    coder: DeltaCoder, boxes_xyxy: NDArray[np.float32], deltas: NDArray[np.float32], size_hw: tuple[int, int]
) -> NDArray[np.float32]:
    """Return the (N, 4) boxes that (N, 4) deltas move and scale, in the order of mmdet's arithmetic."""
    deltas = deltas * np.array(coder.stds, dtype=np.float32) + np.array(coder.means, dtype=np.float32)
    centres = (boxes_xyxy[:, :2] + boxes_xyxy[:, 2:]) * np.float32(0.5)
    sides = boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]
    centres = centres + sides * deltas[:, :2]
    limit = np.float32(MAX_LOG_RATIO)
    halves = sides * np.exp(np.clip(deltas[:, 2:], -limit, limit)) * np.float32(0.5)
    decoded = np.concatenate([centres - halves, centres + halves], axis=1)
    return _clip(decoded, size_hw) if coder.clip_border else decoded


def decode_distances(
    coder: DistanceCoder,
    boxes_xyxy: NDArray[np.float32],
    distances: NDArray[np.float32],
    unit: tuple[int, int],
    size_hw: tuple[int, int],
) -> NDArray[np.float32]:
    """Return the (N, 4) boxes that (N, 4) distances span around the centres of anchors.

    Args:
        coder: coding of the distances.
        boxes_xyxy: (N, 4) anchors.
        distances: (N, 4).
        unit: pixels of the input that a distance of 1 along x and y has.
        size_hw: size of the image inside the input.
    """
    centres = (boxes_xyxy[:, :2] + boxes_xyxy[:, 2:]) * np.float32(0.5)
    low, high = np.split(distances * np.array([*unit, *unit], dtype=np.float32), 2, axis=1)
    decoded = np.concatenate([centres - low, centres + high], axis=1)
    return _clip(decoded, size_hw) if coder.clip_border else decoded


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


def _clip(boxes_xyxy: NDArray[np.float32], size_hw: tuple[int, int]) -> NDArray[np.float32]:
    height, width = size_hw
    return np.clip(boxes_xyxy, 0, np.array([width, height, width, height], dtype=np.float32))


def _select_anchors(
    logits: Map, spec: AnchorMaps, thresholds: NDArray[np.float32] | None
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """Return index, class and score of the ``nms_pre`` best anchors of one level, the highest score first.

    Thresholds of classes act after the choice of the best, which then does not depend on them.
    """
    table = logits.transpose(1, 2, 0).reshape(-1, spec.channels)
    if thresholds is None:
        indices, labels, scores = _score_proposals(table, spec)
    else:
        indices, labels, scores = _score_classes(table, spec, thresholds.min())
    order = _best(scores, spec.nms_pre)
    if thresholds is not None:
        order = order[reaches(scores[order], thresholds[labels[order]])]
    return indices[order], labels[order], scores[order]


def _best(scores: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    """Return the indices of the ``count`` highest scores, all where it is not positive; equal scores keep their order.

    Only scores that reach the last of them are sorted: of a fine level, tens of thousands would be.
    """
    if not 0 < count < len(scores):
        return np.argsort(-scores, kind="stable")
    last = len(scores) - count
    reaching = np.flatnonzero(scores >= np.partition(scores, last)[last])
    return reaching[np.argsort(-scores[reaching], kind="stable")[:count]]


def _score_proposals(
    table: NDArray[np.float32], spec: AnchorMaps
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """Return index, label 0 and logit of objectness of every anchor.

    The order of the logits is that of mmdet's probabilities, but of these, near 1, hundreds share one number of single
    precision. Which of them NMS then keeps would be decided by the rounding of the network's runtime.
    """
    objectness = table[:, 0] if spec.activation == "sigmoid" else table[:, 0] - table[:, 1]
    indices: NDArray[np.int64] = np.arange(len(objectness))
    return indices, np.zeros_like(indices), objectness


def _score_classes(
    table: NDArray[np.float32], spec: AnchorMaps, threshold: np.float32
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """Return anchor index, class and score of everything that reaches the threshold."""
    if spec.activation == "softmax":
        probabilities = softmax(table)[:, :-1]
        indices, labels = np.nonzero(reaches(probabilities, threshold))
        return indices, labels, probabilities[indices, labels]
    # Nearly all anchors see background: their sigmoid is never computed.
    clipped = min(float(threshold), _HIGHEST_LOGIT_THRESHOLD)
    logits = table.reshape(-1)
    places = np.flatnonzero(reaches(logits, np.float32(math.log(clipped / (1 - clipped)) - _MARGIN)))
    scores = sigmoid(logits[places])
    keep = reaches(scores, threshold)
    indices, labels = np.divmod(places[keep], spec.channels)
    return indices, labels, scores[keep]


def _anchors_at(spec: AnchorMaps, level: int, indices: NDArray[np.int64], width: int) -> NDArray[np.float32]:
    """Return the anchors at these rows of the table of (row, column, anchor)."""
    base = spec.anchors(level)
    cells, of_cell = np.divmod(indices, len(base))
    rows, columns = np.divmod(cells, width)
    stride_x, stride_y = spec.strides[level]
    x, y = (columns * stride_x).astype(np.float32), (rows * stride_y).astype(np.float32)
    return base[of_cell] + np.stack([x, y, x, y], axis=1)
