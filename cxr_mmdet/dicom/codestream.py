"""Headers of JPEG, JPEG-LS, JPEG 2000 and JPEG XL codestreams, read before a decoder allocates or guesses anything.

Decoders fill what is missing from a cut stream with grey or black and call it a success; the checks here make that an
error. The first families stuff their data so that an end marker cannot occur inside it (ITU-T T.81 B.1.1.5, T.800 A.1).
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from enum import Enum

_END = b"\xff\xd9"  # EOI in JPEG and JPEG-LS, EOC in JPEG 2000
_JPEG_START = b"\xff\xd8"
_J2K_START = b"\xff\x4f\xff\x51"  # SOC directly followed by SIZ
_JXL_START = b"\xff\x0a"
_JXL_BOX = b"\0\0\0\x0cJXL \r\n\x87\n"
_SOT = b"\xff\x90"
_CAP = b"\xff\x50"  # extended capabilities, of which HTJ2K is the one in DICOM (T.814 A.2)
_SOS, _EOI = 0xDA, 0xD9
_PROGRESSIVE = 0xC2
_MAX_SCANS = 200
"""Encoders make about ten; each costs the decoder a pass over the image."""
_FRAME_MARKERS = frozenset(
    {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}
)  # SOFn and JPEG-LS SOF55, without DHT, JPG, DAC
_BARE_MARKERS = frozenset({0x01, *range(0xD0, 0xD9)})  # TEM, RSTn, SOI carry no length


class Family(Enum):
    """Kinds of codestreams, each with decoders of its own; the values name them in messages."""

    jpeg = "JPEG"
    jpeg_lossless = "lossless JPEG"
    jpeg_ls = "JPEG-LS"
    jpeg2000 = "JPEG 2000"
    htj2k = "HTJ2K"
    jpeg_xl = "JPEG XL"
    rle = "RLE"


@dataclass(frozen=True)
class Codestream:
    """Header of a codestream.

    Attributes:
        family: by its first bytes and its frame header, whatever the file's transfer syntax is.
        size_hw: in pixels.
        components: 0 where the header was not read so far (JPEG XL).
        precision: bits of a value; 0 where the header was not read so far.
        is_signed: JPEG is not.
        is_progressive: whether it is a JPEG in several scans, each of which refines the image.
        tiles_end: where JPEG 2000's tile-parts end if other marker segments follow them; None where none do.
    """

    family: Family
    size_hw: tuple[int, int]
    components: int
    precision: int
    is_signed: bool = False
    is_progressive: bool = False
    tiles_end: int | None = None


def begins_codestream(frame: bytes) -> bool:
    """Return whether ``frame`` begins as a JPEG, JPEG-LS, JPEG 2000 or JPEG XL stream does."""
    return frame.startswith((_JPEG_START, _J2K_START, _JXL_START, _JXL_BOX)) or frame[4:8] == b"jP  "


def without_trailing_segments(frame: bytes, stream: Codestream) -> bytes:
    """Return a JPEG 2000 frame that ends behind its tile-parts: OpenJPEG takes marker segments there for damage."""
    return frame if stream.tiles_end is None else frame[: stream.tiles_end] + _END


def read_codestream(frame: bytes) -> Codestream:
    """Return what the header of one complete frame says.

    Raises:
        ValueError: no codestream that is known here, a damaged header, or the end is missing.
    """
    try:
        if frame.startswith(_JPEG_START):
            return _read_jpeg(frame)
        if frame.startswith((_JXL_START, _JXL_BOX)):
            return Codestream(Family.jpeg_xl, _jpegxl_size(_jpegxl_codestream(frame)), 0, 0)
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
            family = {0xC3: Family.jpeg_lossless, 0xF7: Family.jpeg_ls}.get(code, Family.jpeg)
            is_progressive = code == _PROGRESSIVE
            found = Codestream(family, (height, width), components, precision, is_progressive=is_progressive)
            names = frame[place + 8 : place + length : 3]
            scans_from = place + length
        place += length
        if code == _SOS:
            break
    if found is None:
        raise ValueError("the codestream has no frame header")
    if frame.rfind(_END, place) < 0:
        raise ValueError("the codestream is cut off: its end marker is missing")
    if found.is_progressive:
        _check_scans(frame, scans_from, names)
    return found


_MARKER = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])")


def _check_scans(frame: bytes, place: int, components: bytes) -> None:
    """Raise unless the scans of a progressive JPEG bring every coefficient to its last bit (T.81 G.1.1.1)."""
    missing = {(component, coefficient) for component in components for coefficient in range(64)}
    for _ in range(_MAX_SCANS):
        while True:
            marker = _MARKER.search(frame, place)
            if marker is None or marker[1][0] == _EOI:
                if missing:
                    raise ValueError("the codestream is cut off: scans that refine its image are missing")
                return
            place = marker.end()
            (length,) = struct.unpack_from(">H", frame, place)
            if marker[1][0] == _SOS:
                break
            place += length
        count = frame[place + 2]
        first, last, bits = struct.unpack_from(">BBB", frame, place + 3 + 2 * count)
        if bits & 0x0F == 0:
            scanned = frame[place + 3 : place + 3 + 2 * count : 2]
            missing -= {(component, each) for component in scanned for each in range(first, last + 1)}
        place += length
    raise ValueError(f"the codestream has more than {_MAX_SCANS} scans")


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
    (siz_length,) = struct.unpack_from(">H", frame, start + 4)
    main_header = start + 4 + siz_length
    return Codestream(
        family=Family.htj2k if frame[main_header : main_header + 2] == _CAP else Family.jpeg2000,
        size_hw=(y1 - y0, x1 - x0),
        components=components,
        precision=(depth & 0x7F) + 1,
        is_signed=depth >= 0x80,
        tiles_end=_checked_tile_parts(frame, main_header),
    )


def _checked_tile_parts(frame: bytes, place: int) -> int | None:
    """Follow the lengths of the tile-parts (T.800 A.4.2) to the end marker, and return where other segments begin."""
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
            return None
        if length < 14:
            raise ValueError("the codestream's tiles are damaged")
        place += length
    tiles_end = place
    while frame[place : place + 1] == b"\xff" and frame[place : place + 2] != _END:
        (length,) = struct.unpack_from(">H", frame, place + 2)
        if length < 2:
            raise ValueError("the codestream's end is damaged")
        place += 2 + length  # a comment, say, which Canon writes here
    if frame[place : place + 2] != _END:
        raise ValueError("the codestream is cut off: its end marker is missing")
    return tiles_end if place > tiles_end else None


def _jpegxl_codestream(frame: bytes) -> bytes:
    """Return the beginning of the codestream, also where it stands in a box (ISO/IEC 18181-2)."""
    place = 0
    while frame.startswith(_JXL_BOX):
        length, kind = struct.unpack_from(">I4s", frame, place)
        header = 8
        if length == 1:
            (length,) = struct.unpack_from(">Q", frame, place + 8)
            header = 16
        if kind in (b"jxlc", b"jxlp"):
            place += header + (4 if kind == b"jxlp" else 0)
            break
        if length < header:
            raise ValueError("the codestream's header is damaged")
        place += length
    return frame[place : place + 16]


_JXL_RATIOS = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))


def _jpegxl_size(codestream: bytes) -> tuple[int, int]:
    """Return rows and columns (ISO/IEC 18181-1 D.2, SizeHeader): bits from the least significant on."""
    if not codestream.startswith(_JXL_START) or len(codestream) < 12:
        raise struct.error
    bits, place = int.from_bytes(codestream[2:], "little"), 0

    def take(count: int) -> int:
        nonlocal place
        place += count
        return bits >> (place - count) & ((1 << count) - 1)

    is_small = take(1)

    def take_side() -> int:
        return 1 + (take(5) * 8 + 7 if is_small else take((9, 13, 18, 30)[take(2)]))

    height = take_side()
    ratio = take(3)
    if ratio == 0:
        return height, take_side()
    over, under = _JXL_RATIOS[ratio - 1]
    return height, height * over // under
