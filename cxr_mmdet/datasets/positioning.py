"""Random positioning: the same chest, standing a little otherwise before the detector; never mirrored."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from mmcv.transforms import BaseTransform
from mmdet.registry import TRANSFORMS

from cxr_mmdet import boxes

if TYPE_CHECKING:
    from numpy.typing import NDArray


@TRANSFORMS.register_module()
class RandomPositioning(BaseTransform):
    """Turn a picture about its centre, scale and shift it, all by a little and in one interpolation.

    The picture keeps its size; what comes in from outside is black. A box becomes the box around its inscribed ellipse
    (:func:`~cxr_mmdet.boxes.move_as_ellipses`, which gives the error): without rotation that is exact, cut at the
    border. The box around the turned corners, which mmdet's ``RandomAffine`` takes, would grow with every turn: a round
    finding's by 8 % in width and height at 5°. Nor does ``RandomAffine`` turn and scale about the centre.

    A box of which less than ``min_visible`` of the area stays within the picture is flagged as ignored, so that nobody
    learns from a sliver; the number and order of the boxes stay.

    Args:
        rotation: degrees; drawn from -rotation…rotation.
        scale: drawn from 1/(1+scale)…1+scale, evenly on a logarithmic scale.
        shift: drawn from -shift…shift for each axis, as a share of width and height.
        min_visible: the share of a box's area.
    """

    def __init__(
        self, rotation: float = 5.0, scale: float = 0.1, shift: float = 0.05, min_visible: float = 0.25
    ) -> None:
        self.rotation, self.scale, self.shift, self.min_visible = rotation, scale, shift, min_visible

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Change ``img``, ``gt_bboxes`` and ``gt_ignore_flags``."""
        # The global generator, which draws are seeded by.
        degrees = np.random.uniform(-self.rotation, self.rotation)  # noqa: NPY002
        limit = math.log1p(self.scale)
        factor = math.exp(np.random.uniform(-limit, limit))  # noqa: NPY002
        height, width = results["img"].shape[:2]
        shift_x, shift_y = np.random.uniform(-self.shift, self.shift, 2) * (width, height)  # noqa: NPY002
        return reposition(results, positioning((height, width), degrees, factor, shift_x, shift_y), self.min_visible)


def positioning(
    size_hw: tuple[int, int], degrees: float, factor: float, shift_x: float, shift_y: float
) -> NDArray[np.float64]:
    """Return the (2, 3) map of continuous pixel coordinates: scaled and turned about the centre, then shifted.

    Args:
        size_hw: of the picture, in pixels.
        degrees: counter-clockwise as seen.
        factor: above 1 enlarges.
        shift_x: to the right, in pixels.
        shift_y: downwards, in pixels.
    """
    height, width = size_hw
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), degrees, factor)
    matrix[:, 2] += shift_x, shift_y
    return np.asarray(matrix, dtype=np.float64)


def reposition(results: dict[str, Any], matrix: NDArray[np.float64], min_visible: float) -> dict[str, Any]:
    """Change ``img``, ``gt_bboxes`` and ``gt_ignore_flags`` by a (2, 3) map of continuous pixel coordinates."""
    image = results["img"]
    height, width = image.shape[:2]
    # OpenCV counts from the centre of the first pixel, boxes from its corner: p' + 1/2 = A (p + 1/2) + t.
    of_centres = matrix.copy()
    of_centres[:, 2] += matrix[:, :2] @ (0.5, 0.5) - 0.5
    results["img"] = cv2.warpAffine(image, of_centres, (width, height), flags=cv2.INTER_LINEAR, borderValue=0)
    if "gt_bboxes" not in results:
        return results
    old = results["gt_bboxes"]
    moved = boxes.move_as_ellipses(old.tensor.numpy(), matrix)
    visible = boxes.clip_to_image(moved, (height, width))
    results["gt_bboxes"] = old.clone()  # with what else it knows of its boxes, such as their votes
    results["gt_bboxes"].tensor = old.tensor.new_tensor(visible)
    cut_off = boxes.area(visible) < min_visible * boxes.area(moved)
    flags = np.asarray(results.get("gt_ignore_flags", np.zeros(len(moved), dtype=bool)))
    results["gt_ignore_flags"] = flags | cut_off
    return results
