"""The pipeline steps that mmdet lacks: one-plane loading, minority copies, centred squares.

Pictures stay one plane of shape (H, W) until ``GreyToThreeChannels``, so that every step between costs a third.
Each step keeps ``gt_bboxes`` exact; ``pad_offset`` tells evaluation and prediction how to get back.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import torch
from mmcv.transforms import BaseTransform
from mmdet.datasets.transforms import PackDetInputs
from mmdet.registry import TRANSFORMS

from cxr_mmdet.datasets.loading import read_grey_picture, require_size
from cxr_mmdet.datasets.minority import COPY_KEY, VARIANT_KEY, Variant
from cxr_mmdet.datasets.votes import SHARES_KEY, unload_votes
from cxr_mmdet.errors import DatasetError
from cxr_mmdet.structures import boxes

Results = dict[str, Any]


@TRANSFORMS.register_module()
class LoadGreyImage(BaseTransform):
    """Load a prepared picture as one plane: ``img`` is (H, W) uint8.

    Raises:
        DatasetError: the file cannot be decoded, or its size is not the one in the COCO file.
    """

    def transform(self, results: Results) -> Results:
        """Add ``img``, ``img_shape``, ``ori_shape`` (height, width) to ``results``."""
        path = results["img_path"]
        image = read_grey_picture(path)
        require_size(path, image.shape, (results.get("height", image.shape[0]), results.get("width", image.shape[1])))
        results.update(img=image, img_shape=image.shape, ori_shape=image.shape)
        return results


@TRANSFORMS.register_module()
class MinorityFlipRot90(BaseTransform):
    """Turn a virtual copy into what it stands for: mirrored, or rotated by 90° counter-clockwise (head to the left).

    Does nothing to originals and to entries of datasets without copies. Note that mirroring a chest moves the heart
    to the right side; the reference project does it to the minority classes only, and so does this.
    """

    def transform(self, results: Results) -> Results:
        """Change ``img``, ``img_shape`` and ``gt_bboxes`` according to the entry's variant."""
        variant = Variant(results.get(VARIANT_KEY, Variant.ORIGINAL))
        width = results["img"].shape[1]
        if variant is Variant.HORIZONTAL_FLIP:
            results["img"] = cv2.flip(results["img"], 1)
            _replace_boxes(results, boxes.flip_horizontal(_boxes_xyxy(results), width))
        elif variant is Variant.ROTATE_90_CCW:
            results["img"] = cv2.rotate(results["img"], cv2.ROTATE_90_COUNTERCLOCKWISE)
            _replace_boxes(results, boxes.rotate_90_ccw(_boxes_xyxy(results), width))
        results["img_shape"] = results["img"].shape[:2]
        return results


@TRANSFORMS.register_module()
class PadToSquare(BaseTransform):
    """Pad a picture to a square with black, the picture in the centre (an odd pixel goes to the right or bottom).

    Must stand before any resizing: ``pad_offset`` is in pixels of the prepared picture.
    """

    def transform(self, results: Results) -> Results:
        """Change ``img``, ``img_shape``, ``gt_bboxes``; add ``pad_offset`` (left, top) in pixels."""
        if "scale_factor" in results:
            raise DatasetError("PadToSquare stands after a resizing step in the pipeline; move it before.")
        height, width = results["img"].shape[:2]
        side = max(height, width)
        left, top = (side - width) // 2, (side - height) // 2
        results["img"] = cv2.copyMakeBorder(
            results["img"], top, side - height - top, left, side - width - left, cv2.BORDER_CONSTANT, value=0
        )
        _replace_boxes(results, boxes.translate(_boxes_xyxy(results), left, top))
        results.update(img_shape=results["img"].shape[:2], pad_offset=(left, top))
        return results


@TRANSFORMS.register_module()
class GreyToThreeChannels(BaseTransform):
    """Show one plane as three equal channels, (H, W) → (H, W, 3), without copying: the array has stride 0."""

    def transform(self, results: Results) -> Results:
        """Change ``img``."""
        plane = results["img"]
        results["img"] = np.broadcast_to(plane[:, :, None], (*plane.shape, 3))
        return results


@TRANSFORMS.register_module()
class PackRadiograph(PackDetInputs):
    """mmdet's ``PackDetInputs`` that also carries what we need in training and scoring.

    ``pad_offset``, without which boxes cannot be mapped back, and ``virtual_copy``: whether this is one more copy of a
    radiograph, which only some kinds of study have.

    Where votes were loaded, ``gt_instances`` also hold ``vote_shares``: (N,) float32 in (0, 1].

    Three equal channels stay one plane in memory, on the way from a worker process too; ``GreyDetDataPreprocessor``
    makes use of it, mmdet's own preprocessor does not notice.
    """

    mapping_table = PackDetInputs.mapping_table | {SHARES_KEY: "vote_shares"}

    def __init__(
        self,
        meta_keys: tuple[str, ...] = (
            "img_id",
            "img_path",
            "ori_shape",
            "img_shape",
            "scale_factor",
            "pad_offset",
            COPY_KEY,
        ),
    ) -> None:
        super().__init__(meta_keys=meta_keys)

    def transform(self, results: Results) -> Results:
        """Return ``inputs`` (3, H, W) uint8 and ``data_samples``."""
        unload_votes(results)
        results.setdefault("pad_offset", (0, 0))
        results.setdefault("scale_factor", (1.0, 1.0))
        results.setdefault(COPY_KEY, False)
        image = results["img"]
        if image.ndim != 3 or image.strides[2] != 0:
            return super().transform(results)
        plane = torch.from_numpy(image[:, :, 0].copy())
        rest = super().transform({key: value for key, value in results.items() if key != "img"})
        return {"inputs": plane.expand(3, -1, -1), **rest}


def _boxes_xyxy(results: Results) -> np.ndarray:
    if "gt_bboxes" not in results:
        return boxes.as_boxes([])
    return boxes.as_boxes(results["gt_bboxes"].tensor.numpy())


def _replace_boxes(results: Results, boxes_xyxy: np.ndarray) -> None:
    if "gt_bboxes" in results:
        moved = results["gt_bboxes"].clone()  # with all that belongs to a box
        moved.tensor = moved.tensor.new_tensor(boxes_xyxy)
        results["gt_bboxes"] = moved
