"""DICOM's RLE (PS3.5 Annex G): PackBits runs, one segment for each byte of each sample."""

from __future__ import annotations

import struct

import imagecodecs
import numpy as np

_HEADER = struct.Struct("<16I")
_PADDING = 4
"""Bytes behind a segment, packed or unpacked, that are passed over; more than that means damage."""


def begins_rle(frame: bytes) -> bool:
    """Return whether ``frame`` begins with a header of RLE: up to 15 segments, the first right behind it."""
    if len(frame) < _HEADER.size:
        return False
    count, first, *_ = _HEADER.unpack_from(frame)
    return 1 <= count <= _HEADER.size // 4 - 1 and first == _HEADER.size


def decode_rle(frame: bytes, size_hw: tuple[int, int], samples: int, bytes_per_sample: int) -> np.ndarray:
    """Return (samples, H, W) unsigned integers of ``bytes_per_sample`` bytes.

    Raises:
        ValueError: the header contradicts the picture, or a segment is damaged or too short.
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
