"""The pipeline steps that mmdet lacks: one-plane loading, minority copies, centred squares.

Images stay one plane of shape (H, W) until ``GreyToThreeChannels``, so that every step between costs a third.
Images that mmdet's own loaders read (``LoadImageFromNDArray``, ``InferencerLoader``) have three channels, blue first;
they become one plane on the way. Each step keeps ``gt_bboxes`` exact. :class:`RadiographSample` moves predicted boxes
back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import torch
from mmcv.transforms import BaseTransform
from mmdet.datasets.transforms import PackDetInputs
from mmdet.registry import TRANSFORMS
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import get_box_tensor
from mmengine.dataset import pseudo_collate
from mmengine.registry import FUNCTIONS, Registry
from mmengine.registry import TRANSFORMS as MMENGINE_TRANSFORMS
from mmengine.structures import InstanceData

from cxr_mmdet.datasets.draw_plan import UNDECIDED_KEY
from cxr_mmdet.datasets.loading import read_grey_image, require_size
from cxr_mmdet.datasets.minority import COPY_KEY, VARIANT_KEY, Variant
from cxr_mmdet.datasets.votes import CORNERS_KEY, SHARES_KEY, unload_votes
from cxr_mmdet.errors import DatasetError
from cxr_mmdet.structures import boxes
from cxr_mmdet.structures.coverage import COVERAGE_KEY

if TYPE_CHECKING:
    from collections.abc import Sequence

Results = dict[str, Any]

OUR_TRANSFORMS = Registry("transform", parent=MMENGINE_TRANSFORMS, scope="cxr_mmdet")
"""Transforms that pipelines name with our scope, because their plain names are those of mmcv."""


@OUR_TRANSFORMS.register_module(name="LoadImageFromFile")
@TRANSFORMS.register_module()
class LoadGreyImage(BaseTransform):
    """Load a prepared image as one plane: ``img`` is (H, W) uint8.

    Test pipelines call it ``cxr_mmdet.LoadImageFromFile``: ``DetInferencer`` looks for a step of this name, whatever
    its scope, to put its own loader there.

    Raises:
        DatasetError: the file cannot be decoded, or its size is not the one in the COCO file.
    """

    def transform(self, results: Results) -> Results:
        """Add ``img``, ``img_shape``, ``ori_shape`` (height, width) to ``results``."""
        path = results["img_path"]
        image = read_grey_image(path)
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
    """Pad an image to a square with black, the image in the centre (an odd pixel goes to the right or bottom).

    Must stand before any resizing: ``pad_offset`` is in pixels of the prepared image.
    """

    def transform(self, results: Results) -> Results:
        """Change ``img``, ``img_shape``, ``gt_bboxes``; add ``pad_offset`` (left, top) in pixels."""
        if "scale_factor" in results:
            raise DatasetError("PadToSquare stands after a resizing step in the pipeline; move it before that step.")
        results["img"] = _one_plane(results["img"])
        height, width = results["img"].shape[:2]
        side = max(height, width)
        left, top = (side - width) // 2, (side - height) // 2
        results["img"] = cv2.copyMakeBorder(
            results["img"], top, side - height - top, left, side - width - left, cv2.BORDER_CONSTANT, value=0
        )
        _replace_boxes(results, boxes.translate(_boxes_xyxy(results), left, top))
        results.update(img_shape=results["img"].shape[:2], pad_offset=(left, top))
        results[_FLIPPED_BEFORE_KEY] = results.get("flip", False)
        return results


@TRANSFORMS.register_module()
class GreyToThreeChannels(BaseTransform):
    """Show one plane as three equal channels, (H, W) → (H, W, 3), without copying: the array has stride 0."""

    def transform(self, results: Results) -> Results:
        """Change ``img``."""
        plane = _one_plane(results["img"])
        results["img"] = np.broadcast_to(plane[:, :, None], (*plane.shape, 3))
        return results


@FUNCTIONS.register_module()
def collate_planes(samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return mmengine's batch of lists, a grey image as the one plane (1, H, W) that memory holds of it.

    torch cannot pin three planes that are one ("more than one element of the written-to tensor refers to a single
    memory location"); ``GreyDetDataPreprocessor`` takes either.
    """
    batch: dict[str, Any] = pseudo_collate(samples)
    batch["inputs"] = [image[:1] if image.stride(0) == 0 else image for image in batch["inputs"]]
    return batch


class RadiographSample(DetDataSample):
    """mmdet's data sample, whose predicted boxes are in pixels of the image before ``PadToSquare``.

    Detectors assign boxes in pixels of the padded image, because mmdet undoes the resizing but not the padding. The
    sample undoes it on assignment, cuts the boxes at the image's border and drops those that lie in the padding. It
    then has the ``pad_offset`` (0, 0), so that later assignments, such as those of ``DetTTAModel``, are taken as they
    are. This holds for ``test_step`` and ``predict``; the boxes of ``predict(..., rescale=False)`` are in pixels of the
    network's input, so they need a plain ``DetDataSample``.
    """

    @property
    def pred_instances(self) -> InstanceData:
        """The detections: ``bboxes`` (N, 4) x_min, y_min, x_max, y_max, ``scores`` (N,), ``labels`` (N,)."""
        return self._pred_instances

    @pred_instances.setter
    def pred_instances(self, value: InstanceData) -> None:
        offset = self.get("pad_offset", (0, 0))
        if tuple(offset) != (0, 0):
            value = self._without_padding(value, offset)
            self.set_metainfo({"pad_offset": (0, 0)})
        self.set_field(value, "_pred_instances", dtype=InstanceData)

    @pred_instances.deleter
    def pred_instances(self) -> None:
        del self._pred_instances

    def _without_padding(self, value: InstanceData, offset: tuple[int, int]) -> InstanceData:
        padded = get_box_tensor(value.bboxes)
        corners = padded.new_tensor(
            boxes.remove_padding(padded.numpy(force=True), offset, (self.ori_shape[0], self.ori_shape[1]))
        )
        value = value.new(bboxes=corners, **{name: part for name, part in value.items() if name != "bboxes"})
        return value[(corners[:, 2:] > corners[:, :2]).all(dim=1)]


@TRANSFORMS.register_module()
class PackRadiograph(PackDetInputs):
    """mmdet's ``PackDetInputs`` that also carries what we need in training and scoring.

    ``pad_offset``, without which boxes cannot be mapped back by :class:`RadiographSample`, ``flip`` and
    ``flip_direction`` for ``DetTTAModel``, ``virtual_copy``: whether this is one more copy of a radiograph, which only
    some kinds of study have, and ``undecided``: whether nobody knows if it is normal.
    Samples of partly labelled data also hold their ``coverage``.

    Where votes were loaded, ``gt_instances`` also hold ``vote_shares`` in (0, 1] and ``corner_weights``: (N,) float32.

    Three equal channels stay one plane in memory, on the way from a worker process too; ``GreyDetDataPreprocessor``
    makes use of it, mmdet's own preprocessor does not notice.
    """

    mapping_table = PackDetInputs.mapping_table | {SHARES_KEY: "vote_shares", CORNERS_KEY: "corner_weights"}

    def __init__(
        self,
        meta_keys: tuple[str, ...] = (
            "img_id",
            "img_path",
            "ori_shape",
            "img_shape",
            "scale_factor",
            "flip",
            "flip_direction",
            "pad_offset",
            COPY_KEY,
            UNDECIDED_KEY,
            COVERAGE_KEY,
        ),
    ) -> None:
        super().__init__(meta_keys=meta_keys)

    def transform(self, results: Results) -> Results:
        """Return ``inputs`` (3, H, W) uint8 and ``data_samples``."""
        unload_votes(results)
        results["pad_offset"] = _packed_offset(results)
        results.setdefault("scale_factor", (1.0, 1.0))
        results.setdefault("flip", False)
        results.setdefault("flip_direction", None)
        results.setdefault(COPY_KEY, False)
        results.setdefault(UNDECIDED_KEY, False)
        image = results["img"]
        if image.ndim != 3 or image.strides[2] != 0:
            packed = super().transform(results)
        else:
            plane = torch.from_numpy(image[:, :, 0].copy())
            rest = super().transform({key: value for key, value in results.items() if key != "img"})
            packed = {"inputs": plane.expand(3, -1, -1), **rest}
        sample = RadiographSample(metainfo=packed["data_samples"].metainfo)
        sample.set_data(dict(packed["data_samples"].items()))
        return {**packed, "data_samples": sample}


_FLIPPED_BEFORE_KEY = "flipped_before_padding"


def _packed_offset(results: Results) -> tuple[int, int]:
    """Return the pixels (left, top) before the image in its square, which a flip after the padding has turned."""
    left, top = results.get("pad_offset", (0, 0))
    if results.get("flip") and not results.get(_FLIPPED_BEFORE_KEY, True):
        height, width = results["ori_shape"][:2]
        side, direction = max(height, width), results["flip_direction"]
        if direction in ("horizontal", "diagonal"):
            left = side - left - width
        if direction in ("vertical", "diagonal"):
            top = side - top - height
    return left, top


def _one_plane(image: np.ndarray) -> np.ndarray:
    """Return an image as (H, W) uint8; of three channels, blue first, the luminance.

    Raises:
        DatasetError: values of another type or another number of channels.
    """
    if image.dtype != np.uint8 or not (image.ndim == 2 or (image.ndim == 3 and image.shape[2] in (1, 3))):
        raise DatasetError(
            f"the image is an array of {image.dtype} of the shape {image.shape}; give uint8 of the shape (H, W) or, "
            "blue first, (H, W, 3)."
        )
    if image.ndim == 2:
        return image
    return image[:, :, 0] if image.shape[2] == 1 else cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)


def _boxes_xyxy(results: Results) -> np.ndarray:
    if "gt_bboxes" not in results:
        return boxes.as_boxes([])
    return boxes.as_boxes(results["gt_bboxes"].tensor.numpy())


def _replace_boxes(results: Results, boxes_xyxy: np.ndarray) -> None:
    if "gt_bboxes" in results:
        moved = results["gt_bboxes"].clone()  # with all that belongs to a box
        moved.tensor = moved.tensor.new_tensor(boxes_xyxy)
        results["gt_bboxes"] = moved
