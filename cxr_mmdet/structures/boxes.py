"""Box geometry and non-maximum suppression in numpy."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    Boxes = NDArray[np.float64]


XYXY_COLUMNS = ["x_min", "y_min", "x_max", "y_max"]
"""The columns that hold a box in every table of the project."""


def as_boxes(boxes: ArrayLike) -> Boxes:
    """Return ``boxes`` as a (N, 4) float64 array; an empty list gives (0, 4)."""
    return np.asarray(boxes, dtype=np.float64).reshape(-1, 4)


def xyxy_to_xywh(boxes_xyxy: ArrayLike) -> Boxes:
    """Return the boxes as (x_min, y_min, width, height)."""
    boxes = as_boxes(boxes_xyxy).copy()
    boxes[:, 2:] -= boxes[:, :2]
    return boxes


def xywh_to_xyxy(boxes_xywh: ArrayLike) -> Boxes:
    """Return the boxes as (x_min, y_min, x_max, y_max)."""
    boxes = as_boxes(boxes_xywh).copy()
    boxes[:, 2:] += boxes[:, :2]
    return boxes


def area(boxes_xyxy: ArrayLike) -> NDArray[np.float64]:
    """Return the (N,) areas in square pixels; 0 for a box without extent."""
    boxes = as_boxes(boxes_xyxy)
    return _extent(boxes[:, :2], boxes[:, 2:])


def iou_matrix(boxes_xyxy: ArrayLike, others_xyxy: ArrayLike) -> NDArray[np.float64]:
    """Return the (N, M) intersection over union; 0 where both boxes are without extent."""
    return iou(as_boxes(boxes_xyxy)[:, None], as_boxes(others_xyxy)[None, :])


def iou(boxes_xyxy: NDArray[np.float64], others_xyxy: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the intersection over union of boxes paired by broadcasting; 0 where both are without extent.

    Args:
        boxes_xyxy: (..., 4).
        others_xyxy: (..., 4), whose leading axes broadcast with those of ``boxes_xyxy``.
    """
    shared = intersection(boxes_xyxy, others_xyxy)
    areas = _extent(boxes_xyxy[..., :2], boxes_xyxy[..., 2:]), _extent(others_xyxy[..., :2], others_xyxy[..., 2:])
    union = areas[0] + areas[1] - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def intersection(boxes_xyxy: NDArray[np.float64], others_xyxy: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the area that boxes, paired by broadcasting, share; both are (..., 4)."""
    low = np.maximum(boxes_xyxy[..., :2], others_xyxy[..., :2])
    high = np.minimum(boxes_xyxy[..., 2:], others_xyxy[..., 2:])
    return _extent(low, high)


def clip_to_image(boxes_xyxy: ArrayLike, size_hw: tuple[int, int]) -> Boxes:
    """Return the boxes cut at the image's border (0…width, 0…height)."""
    height, width = size_hw
    return np.clip(as_boxes(boxes_xyxy), 0, np.array([width, height, width, height], dtype=np.float64))


def remove_padding(boxes_xyxy: ArrayLike, offset: tuple[int, int], size_hw: tuple[int, int]) -> Boxes:
    """Return boxes on a padded image in pixels of the image itself, cut at its border.

    Args:
        boxes_xyxy: (N, 4) in pixels of the padded image.
        offset: pixels that the padding added at the left and at the top.
        size_hw: of the image without padding.
    """
    left, top = offset
    return clip_to_image(translate(boxes_xyxy, -left, -top), size_hw)


def scale(boxes_xyxy: ArrayLike, scale_x: float, scale_y: float) -> Boxes:
    """Return the boxes in an image that was resized by these factors."""
    return as_boxes(boxes_xyxy) * np.array([scale_x, scale_y, scale_x, scale_y])


def flip_horizontal(boxes_xyxy: ArrayLike, width: int) -> Boxes:
    """Return the boxes in the image mirrored left to right."""
    boxes = as_boxes(boxes_xyxy)
    return np.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], axis=1)


def rotate_90_ccw(boxes_xyxy: ArrayLike, width: int) -> Boxes:
    """Return the boxes in the image turned by 90° counter-clockwise (``numpy.rot90``): (x, y) → (y, width - x).

    Args:
        boxes_xyxy: boxes in the image before the turn.
        width: that image's width; it becomes the height.
    """
    boxes = as_boxes(boxes_xyxy)
    return np.stack([boxes[:, 1], width - boxes[:, 2], boxes[:, 3], width - boxes[:, 0]], axis=1)


def translate(boxes_xyxy: ArrayLike, offset_x: float, offset_y: float) -> Boxes:
    """Return the boxes in an image whose origin moved by these offsets, as padding on the left and top does."""
    return as_boxes(boxes_xyxy) + np.array([offset_x, offset_y, offset_x, offset_y], dtype=np.float64)


def move_as_ellipses(boxes_xyxy: ArrayLike, matrix: NDArray[np.float64]) -> Boxes:
    """Return the boxes around the ellipses inscribed in the boxes, after an affine map; exact without rotation.

    What a box holds rarely fills its corners, so the box around the turned corners is too large; the ellipse is the
    usual guess in between (Kalra et al. 2021, "Towards rotation invariance in object detection"). Of a finding that
    touches all four sides of a box of w by h, turned by an angle a, each side is then off by at most
    (h·sin a + sqrt(w²·cos² a + h²·sin² a) - w·cos a) / 2, with w and h exchanged for top and bottom: for a square 4.5 %
    of its side at 5°, either way. The box around the corners is off by up to h·sin a, 8.7 %, and always outwards.

    Args:
        boxes_xyxy: boxes before the map.
        matrix: (2, 3), of continuous pixel coordinates: (x, y) → matrix[:, :2] @ (x, y) + matrix[:, 2].
    """
    boxes = as_boxes(boxes_xyxy)
    linear, offset = matrix[:, :2], matrix[:, 2]
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2 @ linear.T + offset
    half = np.sqrt(((boxes[:, 2:] - boxes[:, :2]) / 2) ** 2 @ (linear**2).T)
    return np.concatenate([centres - half, centres + half], axis=1)


def _extent(low: NDArray[np.float64], high: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the areas between lower and upper corners, both (..., 2); 0 where they are out of order."""
    sides = np.maximum(high - low, 0)
    return sides[..., 0] * sides[..., 1]


_BLOCK = 256
_PAIRS_PER_GROUP = 400
"""Pairs of one group that are picked and compared in the time that going to another group takes."""


def batched_nms(
    boxes_xyxy: NDArray[np.floating],
    scores: NDArray[np.floating],
    groups: NDArray[np.int64],
    iou_threshold: float,
    max_kept: int,
) -> NDArray[np.int64]:
    """Return the indices that non-maximum suppression keeps, the highest score first, at most ``max_kept``.

    A box is removed when its overlap with a better kept box of its group exceeds the threshold. Overlaps are in single
    precision, as torchvision's are.

    Args:
        boxes_xyxy: (N, 4).
        scores: (N,).
        groups: (N,); boxes of different groups never suppress each other.
        iou_threshold: in 0…1.
        max_kept: at least 1.
    """
    order = np.argsort(-scores, kind="stable")
    boxes, group = np.ascontiguousarray(boxes_xyxy[order], dtype=np.float32), groups[order]
    threshold = np.float32(iou_threshold)
    kept: NDArray[np.int64] = np.empty(0, dtype=np.int64)
    for start in range(0, len(order), _BLOCK):
        block = np.arange(start, min(start + _BLOCK, len(order)))
        count = len(np.unique(group[block]))
        pairs = len(block) * (len(block) + len(kept)) / count  # as many as there are if groups are of one size
        of_block = _nms_by_pair if pairs < _PAIRS_PER_GROUP * count else _nms_by_group
        kept = np.concatenate([kept, of_block(boxes, group, block, kept, threshold)])
        if len(kept) >= max_kept:
            break
    return order[kept[:max_kept]]


def _nms_by_group(
    boxes: NDArray[np.float32],
    group: NDArray[np.int64],
    block: NDArray[np.int64],
    kept: NDArray[np.int64],
    threshold: np.float32,
) -> NDArray[np.int64]:
    """Return the indices that remain of a block after what was kept before it, comparing all boxes of each group."""
    remaining: list[NDArray[np.int64]] = [np.empty(0, dtype=np.int64)]
    for each in np.unique(group[block]).tolist():
        indices, before = block[group[block] == each], kept[group[kept] == each]
        if len(before):
            exceeding = _iou_single(boxes[indices][:, None], boxes[before][None, :]) > threshold
            indices = indices[~exceeding.any(axis=1)]
        overlapping = _iou_single(boxes[indices][:, None], boxes[indices][None, :]) > threshold
        remaining.append(indices[_nms_mask(overlapping)])
    return np.sort(np.concatenate(remaining))


def _nms_by_pair(
    boxes: NDArray[np.float32],
    group: NDArray[np.int64],
    block: NDArray[np.int64],
    kept: NDArray[np.int64],
    threshold: np.float32,
) -> NDArray[np.int64]:
    """Return what :func:`_nms_by_group` returns, picking the few pairs that are of one of many groups."""

    def overlaps(indices: NDArray[np.int64], others: NDArray[np.int64]) -> NDArray[np.bool_]:
        mask = group[indices][:, None] == group[others][None, :]
        rows, columns = np.nonzero(mask)
        mask[rows, columns] = _iou_single(boxes[indices[rows]], boxes[others[columns]]) > threshold
        return mask

    if len(kept):
        block = block[~overlaps(block, kept).any(axis=1)]
    return block[_nms_mask(overlaps(block, block))]


def _nms_mask(overlapping: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the (N,) mask of what NMS keeps of boxes sorted by falling score, of which these (N, N) pairs overlap."""
    keep = np.ones(len(overlapping), dtype=bool)
    for index in np.flatnonzero(np.triu(overlapping, 1).any(axis=1)):
        if keep[index]:
            keep[index + 1 :] &= ~overlapping[index, index + 1 :]
    return keep


def _iou_single(boxes: NDArray[np.float32], others: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the intersection over union in single precision; NaN for two boxes without extent.

    Args:
        boxes: (..., 4).
        others: (..., 4), whose leading axes broadcast with those of ``boxes``.
    """
    low = np.maximum(boxes[..., :2], others[..., :2])
    high = np.minimum(boxes[..., 2:], others[..., 2:])
    sides = np.maximum(high - low, 0)
    shared = sides[..., 0] * sides[..., 1]
    areas, other_areas = (np.prod(each[..., 2:] - each[..., :2], axis=-1) for each in (boxes, others))
    with np.errstate(invalid="ignore", divide="ignore"):
        return shared / (areas + other_areas - shared)
