"""Boxes around the masks, polygons and other shapes that data sets draw."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np
from pycocotools import mask as coco_mask

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

    from cxr_mmdet.structures.detections import Box

SPECK_PX = 10
"""Connected parts of a mask of fewer pixels are slips of the brush or of the rasteriser, unless there is no other."""


def points_extent(points_xy: ArrayLike) -> Box:
    """Return the box around points, such as the corners of a polygon; NaN where there is none.

    Args:
        points_xy: (N, 2), or flat: x1, y1, x2, y2, …
    """
    points = np.asarray(points_xy, dtype=np.float64).reshape(-1, 2)
    if not len(points):
        return (np.nan, np.nan, np.nan, np.nan)
    (x_min, y_min), (x_max, y_max) = points.min(axis=0).tolist(), points.max(axis=0).tolist()
    return (x_min, y_min, x_max, y_max)


def ellipse_extent(major_xy: ArrayLike, minor_xy: ArrayLike) -> Box:
    """Return the box around an ellipse that lies at any angle.

    Args:
        major_xy: (2, 2) ends of the major axis.
        minor_xy: (2, 2) ends of the minor axis.
    """
    major, minor = np.asarray(major_xy, dtype=np.float64), np.asarray(minor_xy, dtype=np.float64)
    centre = major.mean(axis=0)
    half = np.hypot((major[1] - major[0]) / 2, (minor[1] - minor[0]) / 2)
    return points_extent([centre - half, centre + half])


def mask_boxes(mask: NDArray[np.generic]) -> list[Box]:
    """Return the box of each connected part (8 neighbours) of a (height, width) mask, without specks, top first."""
    _, _, stats, _ = cv2.connectedComponentsWithStats((np.asarray(mask) != 0).astype(np.uint8), connectivity=8)
    parts = stats[1:]
    large = parts[parts[:, cv2.CC_STAT_AREA] >= SPECK_PX]
    return [(float(x), float(y), float(x + w), float(y + h)) for x, y, w, h, _ in (large if len(large) else parts)]


def coco_rle_boxes(size_hw: Sequence[int], counts: str) -> list[Box]:
    """Return the box of each connected part of a mask in COCO's compressed run-length encoding.

    Raises:
        ValueError: the runs do not fill a mask of this size.
    """
    height, width = size_hw
    mask = coco_mask.decode({"size": [height, width], "counts": counts.encode("ascii")})
    return mask_boxes(mask)


def relative_rle_extent(runs: Sequence[int], size_hw: tuple[int, int]) -> Box:
    """Return the box around one region of a relative run-length encoding, column by column.

    Args:
        runs: pixels to skip, pixels to set, pixels to skip, …, each from where the one before ended.
        size_hw: size of the mask.

    Raises:
        ValueError: the runs are no pairs, one is negative, none sets a pixel, or they leave the mask.
    """
    height, width = size_hw
    rest = height * width - sum(runs)
    if len(runs) % 2 or min(runs, default=-1) < 0 or rest < 0 or not any(runs[1::2]):
        raise ValueError("not pairs of a gap and a length within the mask")
    # Uncompressed COCO run lengths are just these gaps and lengths.
    encoded = coco_mask.frPyObjects({"counts": [*runs, rest], "size": [height, width]}, height, width)
    x, y, box_width, box_height = coco_mask.toBbox(encoded).tolist()
    return (x, y, x + box_width, y + box_height)
