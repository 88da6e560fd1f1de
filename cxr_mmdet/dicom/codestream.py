"""What a JPEG, JPEG-LS or JPEG 2000 codestream says of itself, read before a decoder allocates or guesses anything.

Decoders fill what is missing from a cut stream with grey or black and call it a success; the checks here make that an
error. Both families stuff their data so that an end marker cannot occur inside it (ITU-T T.81 B.1.1.5, T.800 A.1).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

_END = b"\xff\xd9"  # EOI in JPEG and JPEG-LS, EOC in JPEG 2000
_JPEG_START = b"\xff\xd8"
_J2K_START = b"\xff\x4f\xff\x51"  # SOC directly followed by SIZ
_SOT = b"\xff\x90"
_SOS = 0xDA
_FRAME_MARKERS = frozenset(
    {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}
)  # SOFn and JPEG-LS SOF55, without DHT, JPG, DAC
_BARE_MARKERS = frozenset({0x01, *range(0xD0, 0xD9)})  # TEM, RSTn, SOI carry no length


@dataclass(frozen=True)
class Codestream:
    """Size and depth as the codestream states them; ``size_hw`` in pixels, ``precision`` in bits, JPEG is unsigned."""

    size_hw: tuple[int, int]
    components: int
    precision: int
    is_signed: bool = False


def read_codestream(frame: bytes) -> Codestream:
    """Return what the header of one complete frame says.

    Raises:
        ValueError: neither a JPEG nor a JPEG 2000 stream, a damaged header, or the end is missing.
    """
    try:
        if frame.startswith(_JPEG_START):
            return _read_jpeg(frame)
        start = frame.find(_J2K_START, 0, 4096)  # JP2 boxes may stand in front, against PS3.5 8.2.4
        if start < 0:
            raise ValueError("the pixel data hold no JPEG or JPEG 2000 stream")
        return _read_jpeg2000(frame, start)
    except struct.error:
        raise ValueError("the pixel data end inside the codestream's header") from None


def _read_jpeg(frame: bytes) -> Codestream:
    found: Codestream | None = None
    place = 2
    while True:
        code, place = _next_marker(frame, place)
        if code in _BARE_MARKERS:
            continue
        (length,) = struct.unpack_from(">H", frame, place)
        if code in _FRAME_MARKERS:
            precision, height, width, components = struct.unpack_from(">BHHB", frame, place + 2)
            found = Codestream((height, width), components, precision)
        place += length
        if code == _SOS:
            break
    if found is None:
        raise ValueError("the codestream has no frame header")
    if frame.rfind(_END, place) < 0:
        raise ValueError("the codestream is cut off: its end marker is missing")
    return found


def _next_marker(frame: bytes, place: int) -> tuple[int, int]:
    """Return the marker's second byte and the place behind it; 0xFF bytes may be repeated as fill (T.81 B.1.1.2)."""
    (first,) = struct.unpack_from(">B", frame, place)
    if first != 0xFF:
        raise ValueError("the codestream's header is damaged")
    code = 0xFF
    while code == 0xFF:
        place += 1
        (code,) = struct.unpack_from(">B", frame, place)
    return code, place + 1


def _read_jpeg2000(frame: bytes, start: int) -> Codestream:
    x1, y1, x0, y0 = struct.unpack_from(">4I", frame, start + 8)
    components, depth = struct.unpack_from(">HB", frame, start + 40)
    _check_tile_parts(frame, start)
    return Codestream((y1 - y0, x1 - x0), components, (depth & 0x7F) + 1, is_signed=depth >= 0x80)


def _check_tile_parts(frame: bytes, start: int) -> None:
    """Follow the lengths of the tile-parts (T.800 A.4.2) to the end marker."""
    (siz_length,) = struct.unpack_from(">H", frame, start + 4)
    place = start + 4 + siz_length
    while frame[place : place + 2] != _SOT:
        marker, length = struct.unpack_from(">HH", frame, place)
        if not 0xFF50 <= marker <= 0xFF6F or length < 2:
            raise ValueError("the codestream's header is damaged")
        place += 2 + length
    while frame[place : place + 2] == _SOT:
        (length,) = struct.unpack_from(">I", frame, place + 6)
        if length == 0:  # the last tile-part, up to the end marker
            if frame.rfind(_END, place) < 0:
                raise ValueError("the codestream is cut off: its end marker is missing")
            return
        if length < 14:
            raise ValueError("the codestream's tiles are damaged")
        place += length
    if frame[place : place + 2] != _END:
        raise ValueError("the codestream is cut off: its end marker is missing")
