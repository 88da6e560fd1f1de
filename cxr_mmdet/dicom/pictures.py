"""Radiographs that come as PNG, JPEG or TIFF: the same strictness as for DICOM, without its display attributes."""

from __future__ import annotations

import warnings
from io import BytesIO
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pydicom
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from cxr_mmdet.errors import DicomError

if TYPE_CHECKING:
    from pathlib import Path

_MAGIC = {b"\x89PNG\r\n\x1a\n": "PNG", b"\xff\xd8\xff": "JPEG", b"II*\0": "TIFF", b"MM\0*": "TIFF"}
_GREY_MODES = frozenset({"L", "I", "F", "I;16", "I;16L", "I;16B", "I;16N"})


def picture_format(content: bytes) -> str | None:
    """Return PNG, JPEG or TIFF by the first bytes, else None; the file's name is not asked."""
    return next((name for magic, name in _MAGIC.items() if content.startswith(magic)), None)


def _plain_mode(mode: str) -> str:
    return "L" if mode == "1" else "RGB"


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 to 8 (CIPA DC-008 4.6.4 A); 1, as it is, where it is not stated or damaged."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            stated = image.getexif().get(ExifTags.Base.Orientation, 1)
    # The picture may be whole where its EXIF is not.
    except Exception:
        return 1
    return stated if stated in range(1, 9) else 1


def read_picture(content: bytes, name: str, *, max_pixels: int) -> tuple[np.ndarray, int]:
    """Return (H, W) grey values, uint8, or 16-bit integers, or float, and the EXIF orientation they were stored with.

    The values are turned upright, as viewers and annotation tools show the picture; colour becomes luminance.

    Pillow reads them because it refuses a truncated file, where OpenCV fills the rest with grey or black.

    Raises:
        DicomError: damaged, truncated, several pages, or more pixels than ``max_pixels``.
    """
    kind = picture_format(content)
    try:
        with Image.open(BytesIO(content), formats=[kind] if kind else None) as image:
            width, height = image.size
            if width * height > max_pixels:
                raise DicomError(f"{name}: {width} x {height} pixels is beyond the limit of {max_pixels:,} pixels")
            pages = getattr(image, "n_frames", 1)
            if pages > 1:
                raise DicomError(f"{name}: holds {pages} pages; a radiograph is one image")
            orientation = _orientation(image)
            upright = image if orientation == 1 else ImageOps.exif_transpose(image)
            values = np.asarray(upright if upright.mode in _GREY_MODES else upright.convert(_plain_mode(upright.mode)))
    except UnidentifiedImageError:
        raise DicomError(f"{name}: damaged {kind} image; its header cannot be read") from None
    except DicomError:
        raise
    # Pillow's readers raise OSError, SyntaxError, ValueError, struct.error... depending on where the damage is.
    except Exception as error:
        raise DicomError(f"{name}: damaged {kind} image ({error})") from None
    return (cv2.cvtColor(values, cv2.COLOR_RGB2GRAY) if values.ndim == 3 else values), orientation


def picture_size_hw(path: Path) -> tuple[int, int]:
    """Return height and width of a DICOM file or upright picture by its header; no pixel is decoded.

    Raises:
        DicomError: the header cannot be read.
    """
    try:
        with path.open("rb") as file:
            kind = picture_format(file.read(8))
        if kind is None:
            header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["Rows", "Columns"], force=True)
            return int(header.Rows), int(header.Columns)
        with Image.open(path, formats=[kind]) as image:
            width, height = image.size
            return (width, height) if _orientation(image) >= 5 else (height, width)
    # Readers raise whatever the damage leads to.
    except Exception as error:
        raise DicomError(f"{path}: its size cannot be read ({error})") from None
