"""Non-maximum suppression in numpy, block by block: as fast as it must be, and done once enough boxes are kept."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_BLOCK = 256


def suppress(
    boxes_xyxy: NDArray[np.float32],
    scores: NDArray[np.float32],
    groups: NDArray[np.int64],
    iou_threshold: float,
    max_kept: int,
) -> NDArray[np.int64]:
    """Return the indices of the boxes that stay, best score first, at most ``max_kept``.

    A box goes when it overlaps a better one of its group that stays by more than the threshold. Overlaps are in single
    precision, as torchvision's are.

    Args:
        boxes_xyxy: (N, 4).
        scores: (N,).
        groups: (N,); boxes of different groups never meet.
        iou_threshold: in 0…1.
        max_kept: at least 1.
    """
    order = np.argsort(-scores, kind="stable")
    boxes, group = np.ascontiguousarray(boxes_xyxy[order], dtype=np.float32), groups[order]
    threshold = np.float32(iou_threshold)
    kept: dict[int, NDArray[np.int64]] = {}
    total = 0
    for start in range(0, len(order), _BLOCK):
        block = np.arange(start, min(start + _BLOCK, len(order)))
        # Only boxes of one group are compared with each other, which saves most comparisons.
        for each in np.unique(group[block]).tolist():
            mine = block[group[block] == each]
            before = kept.get(each)
            if before is not None:
                mine = mine[~(_overlaps(boxes[mine], boxes[before]) > threshold).any(axis=1)]
            mine = mine[_stays(boxes[mine], threshold)]
            total += len(mine)
            kept[each] = mine if before is None else np.concatenate([before, mine])
        if total >= max_kept:
            break
    places = np.concatenate([np.empty(0, dtype=np.int64), *kept.values()])
    return order[np.sort(places)[:max_kept]]


def _stays(boxes: NDArray[np.float32], threshold: np.float32) -> NDArray[np.bool_]:
    """Return which of a few sorted boxes stay."""
    conflicts = _overlaps(boxes, boxes) > threshold
    stays = np.ones(len(boxes), dtype=bool)
    for index in np.flatnonzero(np.triu(conflicts, 1).any(axis=1)):
        if stays[index]:
            stays[index + 1 :] &= ~conflicts[index, index + 1 :]
    return stays


def _overlaps(boxes: NDArray[np.float32], others: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the (N, M) intersection over union in single precision; NaN for two boxes without extent."""
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    sides = np.maximum(high - low, 0)
    intersection = sides[..., 0] * sides[..., 1]
    area, other_area = _areas(boxes), _areas(others)
    with np.errstate(invalid="ignore", divide="ignore"):
        return intersection / (area[:, None] + other_area[None, :] - intersection)


def _areas(boxes: NDArray[np.float32]) -> NDArray[np.float32]:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
