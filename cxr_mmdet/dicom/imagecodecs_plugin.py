"""imagecodecs as a plugin of pydicom's decoders: libjpeg-turbo, CharLS, OpenJPEG and OpenJPH, and RLE on its PackBits.

pydicom asks a plugin's module for ``DECODER_DEPENDENCIES``, ``is_available`` and the decoding function (pydicom docs,
"Decoding plugins").
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

import cv2
import imagecodecs
import numpy as np
from pydicom import uid

if TYPE_CHECKING:
    from collections.abc import Callable

    from pydicom.pixels.decoders.base import DecodeRunner

_HEADER = struct.Struct("<16I")
_PADDING = 4
"""Bytes behind a segment, packed or unpacked, that are passed over; more than that means damage."""


def _decode_rle(data: bytes, runner: DecodeRunner) -> np.ndarray:
    runner.set_option("planar_configuration", 1)
    size_hw = (runner.rows, runner.columns)
    return decode_rle(data, size_hw, runner.samples_per_pixel, runner.bits_allocated // 8)


def _decode_lossless_jpeg(data: bytes, runner: DecodeRunner) -> np.ndarray:
    # Naming both colour spaces alike keeps libjpeg from converting; what the components mean is DICOM's to say.
    space = "RGB" if runner.samples_per_pixel == 3 else None
    return _by_pixel(imagecodecs.jpeg8_decode(data, colorspace=space, outcolorspace=space), runner)


def _decode_jpeg(data: bytes, runner: DecodeRunner) -> np.ndarray:
    _require_grey(runner)
    return _by_pixel(imagecodecs.jpeg8_decode(data), runner)


def _decode_jpeg_ls(data: bytes, runner: DecodeRunner) -> np.ndarray:
    return _by_pixel(imagecodecs.jpegls_decode(data), runner)


def _decode_jpeg2000(data: bytes, runner: DecodeRunner) -> np.ndarray:
    _require_grey(runner)
    # OpenCV's number of threads says how many cores are this process's: 1 in the workers of cxr_mmdet.parallel.
    return _by_pixel(imagecodecs.jpeg2k_decode(data, numthreads=cv2.getNumThreads()), runner)


def _decode_htj2k(data: bytes, runner: DecodeRunner) -> np.ndarray:
    _require_grey(runner)
    return _by_pixel(imagecodecs.htj2k_decode(data), runner)


def _by_pixel(array: np.ndarray, runner: DecodeRunner) -> np.ndarray:
    components = runner.samples_per_pixel
    expected = (runner.rows, runner.columns) if components == 1 else (runner.rows, runner.columns, components)
    if array.shape != expected:
        raise ValueError(f"decoded to {array.shape} instead of {expected}")
    if components > 1:
        runner.set_option("planar_configuration", 0)
    return array


def _require_grey(runner: DecodeRunner) -> None:
    if runner.samples_per_pixel != 1:
        raise NotImplementedError("lossy colour is left to the plugins that follow pydicom's rules on colour spaces")


_DECODE: dict[str, Callable[[bytes, DecodeRunner], np.ndarray]] = {
    uid.RLELossless: _decode_rle,
    uid.JPEGBaseline8Bit: _decode_jpeg,
    uid.JPEGExtended12Bit: _decode_jpeg,
    uid.JPEGLossless: _decode_lossless_jpeg,
    uid.JPEGLosslessSV1: _decode_lossless_jpeg,
    uid.JPEGLSLossless: _decode_jpeg_ls,
    uid.JPEGLSNearLossless: _decode_jpeg_ls,
    uid.JPEG2000Lossless: _decode_jpeg2000,
    uid.JPEG2000: _decode_jpeg2000,
    uid.HTJ2KLossless: _decode_htj2k,
    uid.HTJ2KLosslessRPCL: _decode_htj2k,
    uid.HTJ2K: _decode_htj2k,
}

DECODER_DEPENDENCIES = dict.fromkeys(_DECODE, ("imagecodecs",))


def is_available(syntax: str) -> bool:
    """Return whether imagecodecs decodes the syntax."""
    return syntax in _DECODE


def decode_with_imagecodecs(source: bytes, runner: DecodeRunner) -> Any:
    """Return one decoded frame as a flat buffer, as pydicom's plugins do; ``runner`` learns its depth and layout."""
    array = np.ascontiguousarray(_DECODE[runner.transfer_syntax](source, runner))
    runner.set_option("bits_allocated", array.dtype.itemsize * 8)
    return array.reshape(-1).view(np.uint8).data


def begins_rle(frame: bytes) -> bool:
    """Return whether ``frame`` begins with a header of RLE: up to 15 segments, the first right behind it."""
    if len(frame) < _HEADER.size:
        return False
    count, first, *_ = _HEADER.unpack_from(frame)
    return 1 <= count <= _HEADER.size // 4 - 1 and first == _HEADER.size


def decode_rle(frame: bytes, size_hw: tuple[int, int], samples: int, bytes_per_sample: int) -> np.ndarray:
    """Return (samples, H, W) unsigned integers of ``bytes_per_sample`` bytes.

    Raises:
        ValueError: the header contradicts the image, or a segment is damaged or too short.
    """
    height, width = size_hw
    planes = np.empty((samples, height * width, bytes_per_sample), np.uint8)
    segments = _segments(frame, samples * bytes_per_sample)
    for number, segment in enumerate(segments):
        sample, byte = divmod(number, bytes_per_sample)
        # Segments start with the most significant byte.
        planes[sample, :, bytes_per_sample - 1 - byte] = _unpack(segment, height * width)
    return planes.view(f"<u{bytes_per_sample}").reshape(samples, height, width)


def _segments(frame: bytes, expected: int) -> list[bytes]:
    if len(frame) < _HEADER.size:
        raise ValueError("the RLE data end inside their header")
    count, *offsets = _HEADER.unpack_from(frame)
    if count != expected:
        raise ValueError(f"the RLE data have {count} segments, the header needs {expected}")
    ends = [*offsets[1:count], len(frame)]
    starts = offsets[:count]
    if any(not _HEADER.size <= start < end <= len(frame) for start, end in zip(starts, ends, strict=True)):
        raise ValueError("the RLE segments overlap or lie outside the data")
    return [frame[start:end] for start, end in zip(starts, ends, strict=True)]


def _unpack(segment: bytes, length: int) -> np.ndarray:
    # What pads a segment to even length looks like a run whose bytes are missing. The standard wants a zero, writers
    # put anything there.
    for padding in range(_PADDING + 1):
        try:
            unpacked = imagecodecs.packbits_decode(segment[: len(segment) - padding])
            break
        # The library's own error type has another name in each of its versions; all derive from RuntimeError.
        except RuntimeError:
            continue
    else:
        raise ValueError("an RLE segment is damaged or cut off")
    if not length <= len(unpacked) <= length + _PADDING:
        raise ValueError(f"an RLE segment holds {len(unpacked)} bytes instead of {length}")
    return np.frombuffer(unpacked, np.uint8, length)
