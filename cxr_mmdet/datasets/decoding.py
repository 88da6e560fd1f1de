"""Prepared pictures from disk to memory, by the fastest decoder for what preparation writes: 8-bit grey PNG."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np
from kornia_rs.io import decode_image_png_u8
from PIL import Image

from cxr_mmdet.errors import DatasetError

if TYPE_CHECKING:
    import os

    from numpy.typing import NDArray

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_SIZE = slice(16, 24)  # IHDR stands first: width and height, 4 bytes each,
_FORMAT = slice(24, 26)  # then bit depth and colour type (PNG specification, 11.2.1)
_GREY_8_BIT = bytes([8, 0])
_MAX_PIXELS = 2**30
"""OpenCV refuses larger pictures by a sentence; kornia-rs would panic where memory does not suffice."""


def read_grey_picture(path: str | os.PathLike[str]) -> NDArray[np.uint8]:
    """Return the (H, W) uint8 pixels of a picture; colours become grey.

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
        reason = str(error).strip().splitlines()[0].rstrip(".")
        raise DatasetError(f"{path}: not a picture that can be decoded ({reason}); prepare it again.") from None


def read_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Return (height, width) of a picture as :func:`read_grey_picture` would give it, from the head of the file.

    Raises:
        DatasetError: the file cannot be read, or is no picture.
    """
    try:
        with open(path, "rb") as file:
            head = file.read(_SIZE.stop)
        if head.startswith(_SIGNATURE) and len(head) == _SIZE.stop:
            width, height = np.frombuffer(head[_SIZE], dtype=">u4").tolist()
        else:
            with Image.open(path) as picture:
                width, height = picture.size
    except OSError as error:  # PIL.UnidentifiedImageError is one
        reason = error.strerror or "unknown or damaged format"
        raise DatasetError(f"{path}: cannot be read as a picture ({reason}); prepare it again.") from None
    return height, width


def require_size(path: str | os.PathLike[str], found_hw: tuple[int, ...], expected_hw: tuple[int, int]) -> None:
    """Check that a picture has the size that its COCO entry says.

    Raises:
        DatasetError: it has not.
    """
    if found_hw != expected_hw:
        raise DatasetError(
            f"{path}: is {found_hw[1]}x{found_hw[0]} pixels, the COCO file says {expected_hw[1]}x{expected_hw[0]}; "
            "the folder holds pictures of two preparations, run tools/prepare_data.py build --force."
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
