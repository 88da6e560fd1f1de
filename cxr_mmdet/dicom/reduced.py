"""Grey images at half, a quarter … of their size, before window and shrinking, which then have less to do.

Uncompressed and other images of 16 bits: the mean of 2 x 2, 4 x 4 … stored values. Shrinking by area afterwards gives
nearly what it gives of all pixels: docs/dicom.md has the cost in grey levels and scores.

JPEG 2000: the finest wavelets, most of the work, are left undecoded. Not the same pixels as decoding all and
shrinking: a low-pass of five or nine taps instead of an average. Its samples
stand on the first of 2**halvings original pixels, (2**halvings - 1) / 2 left of and above the middle of a shrunken
pixel, and reach beyond an image whose sides are no multiple of 2**halvings; both are undone.
"""

from __future__ import annotations

import math
from io import BytesIO
from typing import TYPE_CHECKING

import cv2
import numpy as np
from PIL import Image
from pydicom import uid
from pydicom.encaps import get_frame

from cxr_mmdet.dicom.attributes import frame_count
from cxr_mmdet.dicom.codestream import Family, read_codestream, without_trailing_segments

if TYPE_CHECKING:
    from pydicom import Dataset

_SYNTAXES = frozenset({uid.JPEG2000Lossless, uid.JPEG2000})
_LEVELS = 32  # T.800 allows no more decompositions


def halvings(size_hw: tuple[int, int], min_short_edge: int) -> int:
    """Return how often an image can be halved before its shorter side falls below ``min_short_edge`` pixels."""
    return next(count for count in range(_LEVELS, -1, -1) if count == 0 or min(size_hw) >= min_short_edge << count)


def decode_reduced(dataset: Dataset, syntax: uid.UID, index: int, times: int) -> np.ndarray | None:
    """Return one grey frame's stored values, its sides halved ``times`` times and rounded up, or less often.

    As often as the codestream has resolutions for. None where it cannot be had at all: another syntax, colour, a
    codestream that contradicts the header, damage. The caller then decodes all of it, and words the refusal where
    there is one.
    """
    if not times or syntax not in _SYNTAXES or dataset.SamplesPerPixel != 1:
        return None
    try:
        frame = get_frame(dataset.PixelData, index, number_of_frames=frame_count(dataset))
        stream = read_codestream(frame)
    # pydicom's fragment parser raises struct.error, EOFError, IndexError... on damaged items.
    except Exception:
        return None
    frame = without_trailing_segments(frame, stream)
    stated = ((dataset.Rows, dataset.Columns), 1, dataset.BitsStored, dataset.PixelRepresentation == 1)
    found = (stream.size_hw, stream.components, stream.precision, stream.is_signed)
    if stream.family is not Family.jpeg2000 or found != stated:
        return None
    for fewer in range(times, 0, -1):
        values = _decode(frame, fewer)
        if values is not None:
            return _as_stored(_aligned(values, stream.size_hw, fewer), stream.precision, is_signed=stream.is_signed)
    return None


def mean_reduced(values: np.ndarray, times: int) -> np.ndarray:
    """Return the means of blocks of stored values (H, W), at most 2**times along each side.

    A side is halved as often as it is even, so that the blocks fill the image. Arrays of other types than 16 bits come
    back as they are. Values of 8 bits in such an array do not belong here: a narrow window shows the rounding of their
    means.
    """
    if values.dtype not in (np.uint16, np.int16):
        return values
    height, width = (side // math.gcd(side, 1 << times) for side in values.shape)
    if (height, width) == values.shape:
        return values
    return cv2.resize(values, (width, height), interpolation=cv2.INTER_AREA)


def _decode(frame: bytes, times: int) -> np.ndarray | None:
    """Return Pillow's pixels; None where the codestream has fewer resolutions, as its header tells, or is damaged.

    Pillow also refuses a quarter or less where the sides that it rounds are not those that the codec rounds up.
    """
    try:
        with Image.open(BytesIO(frame), formats=["JPEG2000"]) as image:
            image.reduce = times  # type: ignore[assignment, method-assign]  # Pillow documents it as an attribute
            return np.asarray(image)
    # Pillow raises OSError, SyntaxError, ValueError... depending on where the damage is.
    except Exception:
        return None


def _aligned(values: np.ndarray, size_hw: tuple[int, int], times: int) -> np.ndarray:
    """Return values interpolated at the middles of the pixels into which ``values.shape`` divides the image.

    Pixel i's middle is (i + 1/2) scale 2**times in the image; sample j stands at j 2**times + 1/2.
    """
    y, x = (side / (count * 2**times) for side, count in zip(size_hw, values.shape, strict=True))
    to_samples = np.array([[x, 0, (x - 0.5**times) / 2], [0, y, (y - 0.5**times) / 2]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(values, to_samples, values.shape[::-1], flags=flags, borderMode=cv2.BORDER_REPLICATE)


def _as_stored(values: np.ndarray, precision: int, *, is_signed: bool) -> np.ndarray | None:
    """Undo Pillow's unpacking, which scales up to 8 or 16 bits and makes signed values unsigned."""
    if values.dtype not in (np.uint8, np.uint16) or precision > 8 * values.dtype.itemsize:
        return None
    unsigned = values >> (8 * values.dtype.itemsize - precision)
    if not is_signed:
        return unsigned
    signed = np.int8 if values.dtype == np.uint8 else np.int16
    return (unsigned.astype(np.int32) - (1 << (precision - 1))).astype(signed)
