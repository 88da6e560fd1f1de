"""Suppression and overlap of boxes, all (x_min, y_min, x_max, y_max).

``offset`` is mmcv's switch between continuous pixel coordinates (0) and inclusive ones (1), where a box is
``x_max - x_min + 1`` wide.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torchvision  # noqa: F401  (registers torch.ops.torchvision)
from torch import Tensor

from cxr_mmdet.models.mmcv_ops.precision import widen

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["bbox_overlaps", "nms", "nms_match", "softnms"]

_NAIVE, _LINEAR, _GAUSSIAN = range(3)
_IOU = 0


def nms(boxes: Tensor, scores: Tensor, *, iou_threshold: float, offset: int) -> Tensor:
    """Return the int64 indices of the kept boxes, best score first; overlap must exceed the threshold to suppress.

    Args:
        boxes: (N, 4).
        scores: (N,).
        iou_threshold: in 0…1.
        offset: 0 or 1.
    """
    boxes = widen(boxes)
    if offset:
        boxes = torch.cat([boxes[:, :2], boxes[:, 2:] + offset], dim=1)
    # torchvision holds single-precision overlaps against a double threshold: 3/10 would exceed 0.3.
    threshold = torch.tensor(iou_threshold, dtype=boxes.dtype).item()
    return torch.ops.torchvision.nms(boxes, scores.to(boxes.dtype), threshold)


def softnms(
    boxes: Tensor,
    scores: Tensor,
    dets: Tensor,
    *,
    iou_threshold: float,
    sigma: float,
    min_score: float,
    method: int,
    offset: int,
) -> Tensor:
    """Return the int64 indices of the boxes that stay, in the order they were picked, and fill the head of ``dets``.

    The best remaining box lowers its neighbours' scores; those below ``min_score`` drop out. Equal scores are resolved
    as mmcv does it, whose array gets its gaps filled from the end.

    Args:
        boxes: (N, 4) on the CPU.
        scores: (N,).
        dets: (N, 5) output, box and lowered score.
        iou_threshold: overlap from which the naive and the linear method act.
        sigma: width of the Gaussian method.
        min_score: boxes that fall below are dropped.
        method: 0 naive, 1 linear, 2 Gaussian.
        offset: 0 or 1.
    """
    # One row a field: x_min, y_min, x_max, y_max, score.
    table = torch.cat([widen(boxes), scores[:, None].to(widen(boxes))], dim=1).numpy(force=True).T.copy()
    indices = np.arange(table.shape[1])
    picked, alive = 0, table.shape[1]
    while picked < alive:
        best = picked + int(table[4, picked:alive].argmax())
        table[:, [picked, best]] = table[:, [best, picked]]
        indices[[picked, best]] = indices[[best, picked]]
        head, rest = slice(picked, picked + 1), slice(picked + 1, alive)
        overlaps = _overlaps(table[:4, head], table[:4, rest], offset)
        table[4, rest] *= _decay(overlaps, iou_threshold, sigma, method)
        stays = table[4, rest] >= min_score
        picked += 1
        alive = picked + int(stays.sum())
        gaps = picked + np.flatnonzero(~stays[: alive - picked])
        fillers = alive + np.flatnonzero(stays[alive - picked :])[::-1]
        table[:, gaps], indices[gaps] = table[:, fillers], indices[fillers]
    dets[:alive].copy_(torch.from_numpy(table[:, :alive].T))
    return torch.from_numpy(indices[:alive])


def _decay(overlaps: NDArray[Any], iou_threshold: float, sigma: float, method: int) -> NDArray[Any]:
    if method == _GAUSSIAN:
        return np.exp(-np.square(overlaps) / sigma)
    lowered = np.zeros_like(overlaps) if method == _NAIVE else 1 - overlaps
    return np.where(overlaps >= iou_threshold, lowered, 1)


def nms_match(dets: Tensor, *, iou_threshold: float) -> list[list[int]]:
    """Return the groups NMS forms, best first: the index of a kept box, then those it suppresses by falling score.

    Here an overlap equal to the threshold suppresses, unlike in :func:`nms`.

    Args:
        dets: (N, 5) on the CPU: box and score.
        iou_threshold: in 0…1.
    """
    table = widen(dets).numpy(force=True).T
    waiting = np.argsort(-table[4], kind="stable")
    groups = []
    while waiting.size:
        head, rest = waiting[:1], waiting[1:]
        joins = _overlaps(table[:4, head], table[:4, rest], 0) >= iou_threshold
        groups.append([*head.tolist(), *rest[joins].tolist()])
        waiting = rest[~joins]
    return groups


def _overlaps(box: NDArray[Any], boxes: NDArray[Any], offset: int) -> NDArray[Any]:
    """Return the (N,) IoU of ``box`` (4, 1) with ``boxes`` (4, N); 0 where both are without extent."""
    sides = np.minimum(box[2:], boxes[2:]) - np.maximum(box[:2], boxes[:2]) + offset
    intersection = np.clip(sides, 0, None).prod(axis=0)
    union = (box[2:] - box[:2] + offset).prod(axis=0) + (boxes[2:] - boxes[:2] + offset).prod(axis=0) - intersection
    return np.divide(intersection, union, out=np.zeros_like(intersection), where=union != 0)


def bbox_overlaps(bboxes1: Tensor, bboxes2: Tensor, ious: Tensor, *, mode: int, aligned: bool, offset: int) -> None:
    """Fill ``ious`` with the overlaps; 0/0 of boxes without extent is NaN, as in mmcv.

    Args:
        bboxes1: (M, 4).
        bboxes2: (N, 4).
        ious: output, (M, N), or (M,) when ``aligned``.
        mode: 0 intersection over union, 1 over the area of ``bboxes1``.
        aligned: compare box i with box i; M equals N.
        offset: 0 or 1.
    """
    boxes, others = widen(bboxes1), widen(bboxes2)
    if not aligned:
        boxes = boxes[:, None]
    sides = torch.minimum(boxes[..., 2:], others[..., 2:]) - torch.maximum(boxes[..., :2], others[..., :2])
    intersection = (sides + offset).clamp_(min=0).prod(dim=-1)
    base = (boxes[..., 2:] - boxes[..., :2] + offset).prod(dim=-1)
    if mode == _IOU:
        base = base + (others[..., 2:] - others[..., :2] + offset).prod(dim=-1) - intersection
    ious.copy_(intersection / base)
