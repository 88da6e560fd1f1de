"""From a radiograph's pixels to a detector's input, as training's test pipeline does it, to the last bit; no torch."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from cxr_mmdet.errors import counted
from cxr_mmdet.inference.spec import require_flag, require_number, require_whole
from cxr_mmdet.preparation.images import shrink
from cxr_mmdet.structures import boxes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import ArrayLike, NDArray

CHANNELS = 3
"""Planes of every network's input."""

_LARGEST_SIDE = 16384
"""More pixels than the largest radiograph has along a side; a larger input would fill the memory."""


@dataclass(frozen=True)
class Preprocessing:
    """The steps between a radiograph and the model, as data.

    Attributes:
        short_edge: of the prepared images the model was trained on, in pixels; 0: full size.
        pad_to_square: centre the image in a black square first.
        scale: two sides in pixels. With ``keep_ratio`` the image is resized so that its long side is at most the
            larger and its short side at most the smaller; without it to exactly (width, height). None leaves the size.
        keep_ratio: see ``scale``.
        mean: grey level that becomes 0, for each channel.
        std: grey levels that become 1, for each channel.
        size_divisor: the input is padded to the right and bottom to multiples of it.
        pad_value: value used for padding, after normalisation.
    """

    short_edge: int
    pad_to_square: bool
    scale: tuple[int, int] | None
    keep_ratio: bool
    mean: tuple[float, ...]
    std: tuple[float, ...]
    size_divisor: int
    pad_value: float

    def __post_init__(self) -> None:
        require_whole("short_edge", self.short_edge, 0, _LARGEST_SIDE)
        require_flag("pad_to_square", self.pad_to_square)
        for side in self.scale or ():
            # A view of --tta-scale is larger than what a description may ask for.
            require_whole("scale", side, 1, 4 * _LARGEST_SIDE)
        require_flag("keep_ratio", self.keep_ratio)
        if len(self.mean) != len(self.std):
            raise ValueError(f"mean has {len(self.mean)} numbers, std has {len(self.std)}")
        for mean in self.mean:
            require_number("mean", mean, -1e6, 1e6)
        for std in self.std:
            require_number("std", std, 1e-6, 1e6)
        require_whole("size_divisor", self.size_divisor, 1, 4096)
        require_number("pad_value", self.pad_value, -1e6, 1e6)

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Preprocessing:
        """Return what :meth:`to_json` wrote.

        Raises:
            KeyError, TypeError, ValueError: something else.
        """
        scale = value["scale"]
        if scale is not None:
            width, height = scale
            require_whole("scale", max(scale), 1, _LARGEST_SIDE)
        if len(value["mean"]) != CHANNELS:
            raise ValueError(f"mean has {counted(len(value['mean']), 'number')}, expected {CHANNELS}")
        return cls(
            short_edge=value["short_edge"],
            pad_to_square=value["pad_to_square"],
            scale=None if scale is None else (width, height),
            keep_ratio=value["keep_ratio"],
            mean=tuple(value["mean"]),
            std=tuple(value["std"]),
            size_divisor=value["size_divisor"],
            pad_value=value["pad_value"],
        )

    def scaled(self, factor: float) -> Preprocessing:
        """Return the same steps for an input that is ``factor`` times as large."""
        if self.scale is None or factor == 1:
            return self
        width, height = (max(1, round(factor * side)) for side in self.scale)
        return replace(self, scale=(width, height))

    @property
    def fixed_size_hw(self) -> tuple[int, int] | None:
        """Height and width of the input where every radiograph's is the same: squares, or stretched to one size."""
        if self.scale is None or (self.keep_ratio and not self.pad_to_square):
            return None
        size_wh = (min(self.scale),) * 2 if self.keep_ratio else self.scale
        width, height = map(self._padded, size_wh)
        return height, width

    def _padded(self, side: int) -> int:
        return math.ceil(side / self.size_divisor) * self.size_divisor

    def __call__(
        self,
        pixels: NDArray[np.uint8],
        pixel_aspect: float = 1.0,
        *,
        flip: bool = False,
        size_hw: tuple[int, int] | None = None,
    ) -> ModelInput:
        """Return the model's input and the way back.

        Args:
            pixels: (H, W) as read from the file, at full or reduced size or prepared already.
            pixel_aspect: height of a pixel over its width.
            flip: mirror the prepared image left to right.
            size_hw: of the radiograph, where ``pixels`` were decoded at a reduced size.
        """
        prepared = shrink(pixels, self.short_edge, pixel_aspect, size_hw)
        image = cv2.flip(prepared, 1) if flip else prepared
        offset = (0, 0)
        if self.pad_to_square:
            image, offset = pad_to_square(image)
        padded_size = image.shape
        image = self._resize(image)
        return ModelInput(
            plane=image,
            batch=self._normalise(image),
            source_size_hw=size_hw or _size_hw(pixels),
            prepared_size_hw=_size_hw(prepared),
            offset=offset,
            factors=(image.shape[1] / padded_size[1], image.shape[0] / padded_size[0]),
            flipped=flip,
        )

    def _resize(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        if self.scale is None:
            return image
        height, width = image.shape
        if self.keep_ratio:
            # As mmcv.image.rescale_size rounds it.
            factor = min(max(self.scale) / max(height, width), min(self.scale) / min(height, width))
            size_wh = int(width * float(factor) + 0.5), int(height * float(factor) + 0.5)
        else:
            size_wh = self.scale
        size_wh = max(1, size_wh[0]), max(1, size_wh[1])
        return np.asarray(cv2.resize(image, size_wh, interpolation=cv2.INTER_LINEAR), dtype=np.uint8)

    def _normalise(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return (1, C, H, W): by a table of all 256 levels, which gives the bits of doing it pixel by pixel."""
        levels = np.arange(256, dtype=np.float32)
        height, width = image.shape
        batch = np.empty((1, len(self.mean), self._padded(height), self._padded(width)), dtype=np.float32)
        batch[:, :, height:] = batch[:, :, :, width:] = self.pad_value
        for plane, mean, std in zip(batch[0], self.mean, self.std, strict=True):
            plane[:height, :width] = cv2.LUT(image, (levels - np.float32(mean)) / np.float32(std))
        return batch


@dataclass(frozen=True, eq=False)
class ModelInput:
    """One image as a model sees it, and what undoes the way to it.

    Attributes:
        plane: (H, W) uint8, resized, before normalisation.
        batch: (1, C, H', W') float32, padded.
        source_size_hw: of the radiograph as stored.
        prepared_size_hw: of the prepared image.
        offset: (left, top) pixels that padding to a square added.
        factors: by which x and y were resized after it.
        flipped: whether the image was mirrored.
    """

    plane: NDArray[np.uint8]
    batch: NDArray[np.float32]
    source_size_hw: tuple[int, int]
    prepared_size_hw: tuple[int, int]
    offset: tuple[int, int]
    factors: tuple[float, float]
    flipped: bool

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width of the part of the input that shows the image; boxes end there."""
        return _size_hw(self.plane)

    def to_prepared(self, boxes_xyxy: ArrayLike) -> NDArray[np.float64]:
        """Return boxes that resizing was undone for already in prepared-image pixels, cut at the border."""
        moved = boxes.remove_padding(boxes_xyxy, self.offset, self.prepared_size_hw)
        return boxes.flip_horizontal(moved, self.prepared_size_hw[1]) if self.flipped else moved

    def to_source(self, boxes_xyxy: ArrayLike) -> NDArray[np.float64]:
        """Return the same in source-image pixels."""
        (height, width), (prepared_height, prepared_width) = self.source_size_hw, self.prepared_size_hw
        return boxes.scale(self.to_prepared(boxes_xyxy), width / prepared_width, height / prepared_height)


def pad_to_square(image: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], tuple[int, int]]:
    """Return the image centred in a black square, and the pixels (left, top) before it."""
    height, width = image.shape
    side = max(height, width)
    left, top = (side - width) // 2, (side - height) // 2
    square = np.zeros((side, side), dtype=np.uint8)
    square[top : top + height, left : left + width] = image
    return square, (left, top)


def _size_hw(image: NDArray[np.uint8]) -> tuple[int, int]:
    height, width = image.shape
    return height, width
