"""Loading of prepared images and of radiographs as one grey plane."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from kornia_rs.io import decode_image_png_u8
from mmcv.transforms import BaseTransform
from mmdet.registry import TRANSFORMS
from PIL import Image

from cxr_mmdet.errors import DatasetError, first_line
from cxr_mmdet.preparation.images import read_to_size

if TYPE_CHECKING:
    import os

    from numpy.typing import NDArray


_SIGNATURE = b"\x89PNG\r\n\x1a\n"

_SIZE = slice(16, 24)  # IHDR stands first: width and height, 4 bytes each,

_FORMAT = slice(24, 26)  # then bit depth and colour type (PNG specification, 11.2.1)

_GREY_8_BIT = bytes([8, 0])

_MAX_PIXELS = 2**30
"""OpenCV refuses larger images by a sentence; kornia-rs would panic where memory does not suffice."""


def read_grey_image(path: str | os.PathLike[str]) -> NDArray[np.uint8]:
    """Return the (H, W) uint8 pixels of an image; colours become grey.

    8-bit grey PNG, which preparation writes, is decoded by the Rust decoder in kornia-rs, two to three times as fast as
    by OpenCV and with every checksum checked; anything else by OpenCV.

    Raises:
        DatasetError: the file cannot be read or decoded.
    """
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read ({error.strerror}); prepare it again.") from None
    try:
        return _decode(data)
    except Exception as error:  # kornia-rs raises Exception itself, OpenCV its own error
        reason = first_line(error).rstrip(".")
        raise DatasetError(f"{path}: not an image that can be decoded ({reason}); prepare it again.") from None


def read_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Return (height, width) of an image as :func:`read_grey_image` would give it, from the head of the file.

    Raises:
        DatasetError: the file cannot be read, or is not an image.
    """
    try:
        with open(path, "rb") as file:
            head = file.read(_SIZE.stop)
        if head.startswith(_SIGNATURE) and len(head) == _SIZE.stop:
            width, height = np.frombuffer(head[_SIZE], dtype=">u4").tolist()
        else:
            with Image.open(path) as image:
                width, height = image.size
    except OSError as error:  # PIL.UnidentifiedImageError is one
        reason = error.strerror or "unknown or damaged format"
        raise DatasetError(f"{path}: cannot be read as an image ({reason}); prepare it again.") from None
    return height, width


def require_size(path: str | os.PathLike[str], found_hw: tuple[int, ...], expected_hw: tuple[int, int]) -> None:
    """Check that an image has the size that its COCO entry says.

    Raises:
        DatasetError: it has not.
    """
    if found_hw != expected_hw:
        raise DatasetError(
            f"{path}: is {found_hw[1]}x{found_hw[0]} pixels, the COCO file says {expected_hw[1]}x{expected_hw[0]}; "
            "the folder holds images of two preparations; run tools/prepare_data.py build --force."
        )


def _decode(data: bytes) -> NDArray[np.uint8]:
    if data.startswith(_SIGNATURE) and data[_FORMAT] == _GREY_8_BIT:
        width, height = np.frombuffer(data[_SIZE], dtype=">u4").tolist()
        if width * height <= _MAX_PIXELS:
            return np.asarray(decode_image_png_u8(data, (height, width), "mono"))[:, :, 0]
    return _decode_any(data)


def _decode_any(data: bytes) -> NDArray[np.uint8]:
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE | cv2.IMREAD_IGNORE_ORIENTATION)
    if pixels is None:
        raise ValueError("unknown or damaged format")
    return np.asarray(pixels, dtype=np.uint8)


@TRANSFORMS.register_module()
class LoadRadiograph(BaseTransform):
    """Load a radiograph of any format as one plane: ``img`` is (H, W) uint8, the very pixels preparation would write.

    Stands in a pipeline instead of ``LoadGreyImage``; ``CxrDataset`` finds the sources by ``data_prefix`` and
    ``img_suffix``. It costs a decoding of the full image each time: for training on a data set, preparing is cheaper.

    Args:
        short_edge: as the COCO file was prepared with (``manifest.json``), in whose pixels the boxes are; 0 keeps the
            full size.
        reduced_jpeg2000: likewise.

    Raises:
        DicomError: the source is not a radiograph we can show.
        DatasetError: its size is not the one in the COCO file.
    """

    def __init__(self, short_edge: int = 1024, reduced_jpeg2000: bool = False) -> None:
        self.short_edge = short_edge
        self.reduced_jpeg2000 = reduced_jpeg2000

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Add ``img``, ``img_shape``, ``ori_shape`` (height, width) to ``results``."""
        path = results["img_path"]
        _, image = read_to_size(path, self.short_edge, reduced_jpeg2000=self.reduced_jpeg2000)
        expected = (results.get("height", image.shape[0]), results.get("width", image.shape[1]))
        if image.shape != expected:
            raise DatasetError(
                f"{path}: becomes {image.shape[1]}x{image.shape[0]} pixels with short_edge={self.short_edge}, the COCO "
                f"file says {expected[1]}x{expected[0]}; set LoadRadiograph's short_edge to the one in manifest.json."
            )
        results.update(img=image, img_shape=image.shape, ori_shape=image.shape)
        return results

    def __repr__(self) -> str:
        return f"{type(self).__name__}(short_edge={self.short_edge}, reduced_jpeg2000={self.reduced_jpeg2000})"
