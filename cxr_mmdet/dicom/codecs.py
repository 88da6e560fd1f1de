"""Encoded pixel data to stored values: the fastest correct codec of each transfer syntax, with others behind it.

pydicom's decoders do the book-keeping (fragments, planes, signs, unused bits), the libraries behind them the decoding;
all are permissively licensed.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import imagecodecs
import numpy as np
from pydicom import DataElement, Dataset, uid
from pydicom.datadict import dictionary_VR
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate, get_frame
from pydicom.pixels import get_decoder

from cxr_mmdet.dicom import imagecodecs_plugin
from cxr_mmdet.dicom.attributes import frame_count, numbers, one_line
from cxr_mmdet.dicom.codestream import Family, begins_codestream, read_codestream, without_trailing_segments
from cxr_mmdet.dicom.imagecodecs_plugin import DECODER_DEPENDENCIES, begins_rle

if TYPE_CHECKING:
    from pydicom.pixels.decoders.base import Decoder

    from cxr_mmdet.dicom.codestream import Codestream

OWN_PLUGIN = "imagecodecs"

_JPEG = (OWN_PLUGIN, "pillow", "gdcm")  # GDCM's libjpeg writes its remarks to stderr
_JPEG_LS = (OWN_PLUGIN, "pyjpegls", "gdcm")
_JPEG2000 = (OWN_PLUGIN, "pylibjpeg", "gdcm")
_HTJ2K = (OWN_PLUGIN, "pylibjpeg")
PREFERENCE: dict[uid.UID, tuple[str, ...]] = {
    # No second: on damaged data pydicom's own decoder fills in, and pylibjpeg-rle panics past `except Exception`.
    uid.RLELossless: (OWN_PLUGIN,),
    uid.JPEGBaseline8Bit: _JPEG,
    uid.JPEGExtended12Bit: _JPEG,
    uid.JPEGLossless: _JPEG,
    uid.JPEGLosslessSV1: _JPEG,
    uid.JPEGLSLossless: _JPEG_LS,
    uid.JPEGLSNearLossless: _JPEG_LS,
    uid.JPEG2000Lossless: _JPEG2000,
    uid.JPEG2000: _JPEG2000,
    uid.HTJ2KLossless: _HTJ2K,
    uid.HTJ2KLosslessRPCL: _HTJ2K,
    uid.HTJ2K: _HTJ2K,
}
"""Plugins of pydicom in the order they are tried, fastest first; those that are not installed are passed over."""

_DCT_JPEG = (uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit)
_ENCAPSULATED_NATIVE = uid.UID("1.2.840.10008.1.2.1.98")
_DEFLATED_FRAME = uid.UID("1.2.840.10008.1.2.8.1")
_GE_BIG_ENDIAN = uid.UID("1.2.840.113619.5.2")
_JPEG_XL = (
    uid.UID("1.2.840.10008.1.2.4.110"),
    uid.UID("1.2.840.10008.1.2.4.111"),
    uid.UID("1.2.840.10008.1.2.4.112"),
)
_JPEG_IN_SCANS = (uid.UID("1.2.840.10008.1.2.4.53"), uid.UID("1.2.840.10008.1.2.4.55"))
_NATIVE = frozenset(
    {
        uid.ImplicitVRLittleEndian,
        uid.ExplicitVRLittleEndian,
        uid.DeflatedExplicitVRLittleEndian,
        uid.ExplicitVRBigEndian,
        _GE_BIG_ENDIAN,
    }
)
DECODABLE = (
    uid.ExplicitVRLittleEndian,
    uid.ImplicitVRLittleEndian,
    uid.DeflatedExplicitVRLittleEndian,
    uid.ExplicitVRBigEndian,
    _ENCAPSULATED_NATIVE,
    _DEFLATED_FRAME,
    *PREFERENCE,
    *_JPEG_IN_SCANS,
    *_JPEG_XL,
)
"""Transfer syntaxes that a peer may send; retired and private ones that files alone come in are left out."""

_NAMES = {
    _DEFLATED_FRAME: "Deflated Image Frame Compression",
    _GE_BIG_ENDIAN: "GE Private Implicit VR Little Endian with Big Endian Pixels",
    **dict(zip(_JPEG_XL, ("JPEG XL Lossless", "JPEG XL JPEG Recompression", "JPEG XL"), strict=True)),
}
"""Names of transfer syntaxes that pydicom's dictionary lacks."""

_FAMILIES: dict[str, Family] = {
    **dict.fromkeys((*_DCT_JPEG, *(f"1.2.840.10008.1.2.4.{number}" for number in range(52, 57))), Family.jpeg),
    **dict.fromkeys((uid.JPEGLossless, uid.JPEGLosslessSV1), Family.jpeg_lossless),
    **dict.fromkeys((uid.JPEGLSLossless, uid.JPEGLSNearLossless), Family.jpeg_ls),
    **dict.fromkeys((uid.JPEG2000Lossless, uid.JPEG2000, uid.JPEG2000MCLossless, uid.JPEG2000MC), Family.jpeg2000),
    **dict.fromkeys((uid.HTJ2KLossless, uid.HTJ2KLosslessRPCL, uid.HTJ2K), Family.htj2k),
    **dict.fromkeys(_JPEG_XL, Family.jpeg_xl),
    uid.RLELossless: Family.rle,
}
"""Codestream that each transfer syntax announces."""

_HOSTS = {
    Family.jpeg_lossless: uid.JPEGLossless,
    Family.jpeg_ls: uid.JPEGLSLossless,
    Family.jpeg2000: uid.JPEG2000,
    Family.htj2k: uid.HTJ2K,
    Family.jpeg_xl: _JPEG_XL[-1],
    Family.rle: uid.RLELossless,
}
"""Transfer syntax to decode a codestream by that came under another one."""

_ITEM = b"\xfe\xff\x00\xe0"
"""First bytes of encapsulated pixel data (PS3.5 A.4)."""

_PACKED_BITS = 12

_FLAT_END = 16
_SURPLUS = np.random.default_rng(0).integers(0, 255, 1 << 14, np.uint8).tobytes()  # no 0xFF, which starts a marker

_PYDICOM_PREFACE = "Unable to decode as exceptions were raised by all available plugins:\n"


class CodecError(ValueError):
    """Pixel data that could not be turned into values; the message is the reason alone."""


@dataclass(frozen=True)
class _Encoded:
    """A frame as pydicom's decoders take it; ``stream`` and ``frame`` are those of its codestream, if it is one."""

    dataset: Dataset
    syntax: uid.UID
    index: int
    frame: bytes = b""
    stream: Codestream | None = None


def syntax_name(syntax: uid.UID) -> str:
    """Return a transfer syntax's name, or its UID where it has none."""
    return _NAMES.get(syntax, syntax.name)


def decode_frame(
    dataset: Dataset, syntax: uid.UID, index: int, warnings: list[str] | None = None
) -> tuple[np.ndarray, str]:
    """Return one frame's stored values and its photometric interpretation after decoding.

    Args:
        dataset: holds the pixel data.
        syntax: how they are encoded, according to the file.
        index: of the frame, from 0.
        warnings: is given a sentence for each contradiction between the file's header and its pixel data.

    Returns:
        (H, W) or (H, W, 3) integers, and the colour space they are in; YBR is converted to RGB.

    Raises:
        CodecError: no codec for the syntax, or data that contradict the header, are cut off or damaged.
    """
    remarks = [] if warnings is None else warnings
    encoded = _located(dataset, syntax, index, remarks)
    array, photometric = _decode(encoded)
    if encoded.stream is not None and encoded.dataset.PixelRepresentation != dataset.PixelRepresentation:
        array = _without_wrap_around(array, encoded.stream, remarks)
    elif encoded.stream is not None and _holds_unused_bits(encoded.stream, dataset) and not _high_bit_shift(encoded):
        array = _stored_bits(array, int(dataset.BitsStored), 0)
    return array, photometric


def _decode(encoded: _Encoded) -> tuple[np.ndarray, str]:
    if encoded.syntax in _JPEG_XL:
        return _decode_jpegxl(encoded.frame, encoded.dataset)
    decoder = decoder_of(encoded.syntax)
    plugins = [name for name in PREFERENCE.get(encoded.syntax, ("",)) if not name or name in decoder.available_plugins]
    shift = _high_bit_shift(encoded)
    is_plain = not shift and _is_plain(encoded)
    options: dict[str, Any] = {"correct_unused_bits": False} if shift or is_plain else {}
    if is_plain:
        options["view_only"] = True
    reasons = []
    for plugin in plugins:
        try:
            array, facts = decoder.as_array(encoded.dataset, index=encoded.index, decoding_plugin=plugin, **options)
            ran_dry = _is_huffman_jpeg(encoded.stream) and _ran_dry(array, encoded, decoder, plugin)
        # A library at its wits' end raises anything, from ValueError to RuntimeError and its own types.
        except Exception as error:
            reasons.append(one_line(str(error).removeprefix(_PYDICOM_PREFACE).split(" - ")[0]))
            continue
        if ran_dry:
            raise CodecError("the codestream ends before its image does")
        array = array.astype(array.dtype.newbyteorder("="), copy=False)
        if shift or (is_plain and not _fits(array, int(encoded.dataset.BitsStored))):
            array = _stored_bits(array, int(encoded.dataset.BitsStored), shift)
        return array, str(facts["photometric_interpretation"])
    raise CodecError(f"the pixel data cannot be decoded ({'; '.join(dict.fromkeys(reasons))})")


def _located(dataset: Dataset, syntax: uid.UID, index: int, warnings: list[str]) -> _Encoded:
    """Return the frame as what it is, whatever the transfer syntax says, once it agrees with the header."""
    if "PixelData" not in dataset:
        return _Encoded(dataset, syntax, index)
    data = dataset.PixelData
    if not isinstance(data, (bytes, bytearray)):
        raise CodecError(f"the pixel data are damaged (their VR is {dataset['PixelData'].VR})")
    length = _native_length(dataset)
    is_encapsulated = data[:4] == _ITEM
    if syntax in _NATIVE:
        if not is_encapsulated or (length <= len(data) and not dataset["PixelData"].is_undefined_length):
            return _native(dataset, syntax, index)
    elif not is_encapsulated and len(data) in (length, length + 1) and (syntax in _FAMILIES):
        warnings.append(f"its transfer syntax is {syntax_name(syntax)}, its pixel data are not encoded")
        return _native(_host(dataset, uid.ExplicitVRLittleEndian), uid.ExplicitVRLittleEndian, index)
    try:
        frame = get_frame(data, index, number_of_frames=frame_count(dataset))
    # pydicom's fragment parser raises struct.error, EOFError, IndexError... on damaged items.
    except Exception as error:
        raise CodecError(f"the pixel data are damaged ({one_line(str(error)) or type(error).__name__})") from None
    if syntax in (_ENCAPSULATED_NATIVE, _DEFLATED_FRAME):
        native = _inflated(frame, length // frame_count(dataset)) if syntax == _DEFLATED_FRAME else frame
        host = _host(dataset, uid.ExplicitVRLittleEndian, native)
        return _native(host, uid.ExplicitVRLittleEndian, 0)
    return _codestream(dataset, syntax, index, frame, warnings)


def _codestream(dataset: Dataset, syntax: uid.UID, index: int, frame: bytes, warnings: list[str]) -> _Encoded:
    announced = _FAMILIES.get(syntax)
    stream: Codestream | None = None
    if begins_rle(frame) or (announced is Family.rle and not begins_codestream(frame)):
        family = Family.rle
    elif announced is None and not begins_codestream(frame):
        raise CodecError(_unknown_syntax(syntax))
    else:
        stream = _checked_codestream(frame, dataset)
        family = stream.family
    changes: dict[str, Any] = {}
    if family is not announced:
        warnings.append(f"its transfer syntax is {syntax_name(syntax)}, its pixel data are {family.value}")
    if family is not announced or syntax not in (*PREFERENCE, *_JPEG_XL):
        wide = stream is not None and stream.precision > 8
        syntax = _DCT_JPEG[wide] if family is Family.jpeg else _HOSTS[family]
        changes["syntax"] = syntax
    whole = frame if stream is None else without_trailing_segments(frame, stream)
    if family in (Family.jpeg2000, Family.htj2k) and dataset.SamplesPerPixel == 1:
        assert stream is not None
        if stream.is_signed != dataset.PixelRepresentation:
            changes["PixelRepresentation"] = int(stream.is_signed)
    if dataset.BitsAllocated == _PACKED_BITS:
        changes["BitsAllocated"] = 16
    if changes or whole is not frame:
        host = _host(dataset, changes.pop("syntax", syntax), encapsulate([whole]), **changes)
        return _Encoded(host, syntax, 0, whole, stream)
    return _Encoded(dataset, syntax, index, frame, stream)


def _native(dataset: Dataset, syntax: uid.UID, index: int) -> _Encoded:
    """Return pixel data that are not compressed, their values in whole bytes."""
    data: bytes | None = None
    allocated = dataset.BitsAllocated
    is_big_endian = syntax in (_GE_BIG_ENDIAN, uid.ExplicitVRBigEndian)
    if allocated == _PACKED_BITS:
        data = _unpacked(dataset.PixelData, _native_length(dataset), is_big_endian=is_big_endian)
        host = _host(dataset, uid.ExplicitVRLittleEndian, data, frames=frame_count(dataset), BitsAllocated=16)
        return _Encoded(host, uid.ExplicitVRLittleEndian, index)
    if syntax == _GE_BIG_ENDIAN:
        # In words also where values have 8 bits, as implicit VR has it (PS3.5 A.1).
        host = _host(dataset, uid.ExplicitVRBigEndian, dataset.PixelData, frames=frame_count(dataset))
        return _Encoded(host, uid.ExplicitVRBigEndian, index)
    return _Encoded(dataset, syntax, index)


def _unpacked(data: bytes, length: int, *, is_big_endian: bool) -> bytes:
    """Return values of 12 bits, packed in words from the least significant bit on (PS3.5 Annex D.2), as 16 bits."""
    if len(data) < length:
        raise CodecError(f"the pixel data are cut off: {len(data)} of {length} bytes are there")
    packed = np.frombuffer(data[: length + length % 2], np.uint8)
    packed = packed[: len(packed) // 2 * 2]
    if is_big_endian:
        packed = packed.view(np.uint16).byteswap().view(np.uint8)
    packed = np.append(packed, np.zeros(-len(packed) % 3, np.uint8)).reshape(-1, 3).astype(np.uint16)
    values = np.stack([packed[:, 0] | (packed[:, 1] & 15) << 8, packed[:, 1] >> 4 | packed[:, 2] << 4], axis=1)
    return values.astype("<u2").tobytes()


def _inflated(frame: bytes, length: int) -> bytes:
    """Return a deflated frame (PS3.5 A.4.13) that must unpack to ``length`` bytes, or one more to make them even."""
    try:
        native = zlib.decompressobj(-zlib.MAX_WBITS).decompress(frame, length + 2)
    except zlib.error:
        raise CodecError("the pixel data are damaged (they cannot be unpacked)") from None
    if len(native) not in (length, length + 1):
        what = "more" if len(native) > length else "fewer"
        raise CodecError(f"the pixel data unpack to {what} than the {length} bytes that the header needs")
    return native


def _native_length(dataset: Dataset) -> int:
    """Return how many bytes the pixel data have where they are not encoded."""
    bits = dataset.Rows * dataset.Columns * dataset.SamplesPerPixel * dataset.BitsAllocated
    if dataset.PhotometricInterpretation == "YBR_FULL_422":
        bits = bits // 3 * 2
    return -(-bits * frame_count(dataset) // 8)


def _host(dataset: Dataset, syntax: uid.UID, data: bytes | None = None, *, frames: int = 1, **changes: Any) -> Dataset:
    """Return a copy of ``dataset`` in another transfer syntax, with other attributes and pixel data if given."""
    host = Dataset()
    host.update(dataset)
    host.file_meta = FileMetaDataset()
    host.file_meta.TransferSyntaxUID = syntax
    if data is not None:
        for keyword in ("ExtendedOffsetTable", "ExtendedOffsetTableLengths"):
            host.pop(keyword, None)
        changes |= {"NumberOfFrames": frames, "PixelData": data}
    for keyword, value in changes.items():
        # Assigning to the attribute would change the element that both datasets hold.
        vr = "OW" if keyword == "PixelData" else dictionary_VR(keyword)
        host[keyword] = DataElement(keyword, vr, value)
    return host


def _high_bit_shift(encoded: _Encoded) -> int:
    """Return how many bits below the values are unused: High Bit may stand above Bits Stored - 1 (PS3.5 8.1.1)."""
    dataset = encoded.dataset
    high = numbers(dataset, "HighBit")
    if not high or "PixelData" not in dataset or dataset.SamplesPerPixel != 1 or high[0] >= dataset.BitsAllocated:
        return 0
    if encoded.stream is not None and encoded.stream.precision <= high[0]:
        return 0  # such codestreams hold the values alone
    return max(0, int(high[0]) + 1 - dataset.BitsStored)


def _is_plain(encoded: _Encoded) -> bool:
    """Return whether the pixel data are one image's values as they stand in memory, so that none need be copied."""
    dataset = encoded.dataset
    return (
        encoded.syntax in (uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian)
        and "PixelData" in dataset
        and dataset.SamplesPerPixel == 1
        and dataset.BitsAllocated in (8, 16)
        and frame_count(dataset) == 1
    )


def _fits(array: np.ndarray, bits: int) -> bool:
    """Return whether the unused bits of all values are as the lowest ``bits`` bits and the sign have them."""
    if bits >= 8 * array.dtype.itemsize:
        return True
    if array.dtype.kind == "u":
        return int(array.max()) < 1 << bits
    return -(1 << (bits - 1)) <= int(array.min()) and int(array.max()) < 1 << (bits - 1)


def _holds_unused_bits(stream: Codestream, dataset: Dataset) -> bool:
    """Return whether the encoder took all bits that are allocated: overlays above the values, and signs cut short.

    dcmtk does so; pydicom passes over them for JPEG, not for JPEG-LS and JPEG 2000.
    """
    is_left_alone = stream.family in (Family.jpeg_ls, Family.jpeg2000, Family.htj2k)
    return is_left_alone and dataset.BitsStored < stream.precision == dataset.BitsAllocated


def _stored_bits(array: np.ndarray, bits: int, shift: int) -> np.ndarray:
    """Return the values in ``bits`` bits from bit ``shift`` on, by their sign."""
    unused = 8 * array.dtype.itemsize - bits
    return array << (unused - shift) >> unused


def _without_wrap_around(values: np.ndarray, stream: Codestream, warnings: list[str]) -> np.ndarray:
    """Return the values of a codestream whose sign is not the header's: as itself says, if that is no worse.

    Encoders that were told the wrong sign left the bits as they were, and so did those that were told the right one of
    a wrong header. Read with the wrong sign, values wrap around, and neighbours are far apart.
    """
    span = 1 << stream.precision
    wide = values.astype(np.int64)
    other = np.where(wide < 0, wide + span, wide) if stream.is_signed else np.where(wide < span // 2, wide, wide - span)
    said, meant = ("signed", "unsigned") if stream.is_signed else ("unsigned", "signed")
    by_codestream, by_header = (np.abs(np.diff(each, axis=1)).sum() for each in (wide, other))
    if by_header < by_codestream:
        warnings.append(
            f"the codestream is {said} and the header {meant}; shown as {meant}, which does not wrap around"
        )
        return other.astype(np.int32)
    warnings.append(f"the codestream is {said} and the header {meant}; shown as {said}")
    return values


def _is_huffman_jpeg(stream: Codestream | None) -> bool:
    return stream is not None and stream.family in (Family.jpeg, Family.jpeg_lossless)


def _ran_dry(array: np.ndarray, encoded: _Encoded, decoder: Decoder, plugin: str) -> bool:
    """Return whether the decoder invented the end of the image: JPEG libraries paint what is missing flat, silently.

    A flat end may also be a collimator's shadow. What tells them apart is whether bytes put before the end marker
    change the image: a decoder that had all it needed passes over them. A progressive JPEG's end need not be flat.
    """
    assert encoded.stream is not None
    end_of_image = array[-1, -_FLAT_END:]
    if not encoded.stream.is_progressive and (
        np.ptp(end_of_image) > 0 or (plugin == OWN_PLUGIN and not _is_invented_grey(end_of_image, encoded))
    ):
        return False
    frame = encoded.frame
    end = len(frame[: frame.rfind(b"\xff\xd9")].rstrip(b"\xff"))  # fill bytes may stand before a marker (T.81 B.1.1.2)
    trial = _host(encoded.dataset, encoded.syntax, encapsulate([frame[:end] + _SURPLUS + frame[end:]]))
    return not np.array_equal(decoder.as_array(trial, index=0, decoding_plugin=plugin)[0], array)


def _is_invented_grey(values: np.ndarray, encoded: _Encoded) -> bool:
    """Return whether ``values`` are what libjpeg-turbo paints: coefficients or differences of 0, so half of the range.

    It saves black and white borders a second decoding.
    """
    assert encoded.stream is not None
    invented = 1 << (encoded.stream.precision - 1)
    kept = (1 << encoded.dataset.BitsStored) - 1
    return bool((values.astype(np.int64) & kept == invented & kept).all())


def installed_codecs() -> dict[str, tuple[str, ...]]:
    """Return the installed codecs of each compressed transfer syntax by its keyword, in the order they are tried."""
    found = {}
    for syntax, preferred in PREFERENCE.items():
        there = {*get_decoder(syntax).available_plugins, *([OWN_PLUGIN] if syntax in DECODER_DEPENDENCIES else [])}
        found[syntax.keyword] = tuple(plugin for plugin in preferred if plugin in there)
    found["JPEGXL"] = (OWN_PLUGIN,) if imagecodecs.JPEGXL.available else ()
    return found


def decoder_of(syntax: uid.UID) -> Decoder:
    """Return pydicom's decoder of a syntax, with imagecodecs among its plugins.

    Raises:
        CodecError: pydicom does not know the syntax, or no codec for it is installed.
    """
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError:
        raise CodecError(_unknown_syntax(syntax)) from None
    if syntax in DECODER_DEPENDENCIES and OWN_PLUGIN not in decoder.available_plugins:
        decoder.add_plugin(OWN_PLUGIN, (imagecodecs_plugin.__name__, "decode_with_imagecodecs"))
    if not decoder.is_available:
        needed = " or ".join(decoder.missing_dependencies)
        raise CodecError(f"no codec for its transfer syntax {syntax.name} ({syntax}) is installed; install {needed}")
    return decoder


def _unknown_syntax(syntax: uid.UID) -> str:
    name = one_line(syntax_name(syntax))
    known = name if name == syntax else f"{name} ({one_line(syntax)})"
    if any(film in name for film in ("MPEG", "HEVC", "SMPTE")):
        return f"its transfer syntax {known} is one of films; a radiograph is one image"
    return (
        f"its transfer syntax {known} is not known here; "
        "convert the file to Explicit VR Little Endian with the software that wrote it"
    )


def _checked_codestream(frame: bytes, dataset: Dataset) -> Codestream:
    """Return what the frame's codestream says of itself once it agrees with the dataset's header."""
    try:
        stream = read_codestream(frame)
    except ValueError as error:
        raise CodecError(f"the pixel data are damaged ({one_line(str(error))})") from None
    stated = (dataset.Rows, dataset.Columns)
    if stream.size_hw != stated:
        height, width = stream.size_hw
        raise CodecError(f"the codestream holds {width} x {height} pixels, the header says {stated[1]} x {stated[0]}")
    if stream.components not in (0, dataset.SamplesPerPixel):
        raise CodecError(
            f"the codestream holds {stream.components} components, the header says {dataset.SamplesPerPixel}"
        )
    if stream.precision > dataset.BitsAllocated:
        raise CodecError(
            f"the codestream has {stream.precision} bits per value, the header allocates {dataset.BitsAllocated}"
        )
    return stream


def _decode_jpegxl(frame: bytes, dataset: Dataset) -> tuple[np.ndarray, str]:
    """Return what pydicom has no decoder for; colour comes as RGB, values as stored."""
    try:
        array = imagecodecs.jpegxl_decode(frame, index=0, numthreads=1)
    # The library raises RuntimeError and types of its own that depend on its version.
    except Exception as error:
        raise CodecError(f"the pixel data cannot be decoded (imagecodecs: {one_line(str(error))})") from None
    samples = dataset.SamplesPerPixel
    expected = (dataset.Rows, dataset.Columns, samples)[: 2 if samples == 1 else 3]
    bits = 8 * array.dtype.itemsize
    if array.shape != expected or array.dtype.kind != "u" or bits > dataset.BitsAllocated:
        raise CodecError(f"the codestream holds {array.dtype} {array.shape}, the header says {expected}")
    if samples == 1 and dataset.PixelRepresentation == 1:
        array = _stored_bits(array.view(f"i{array.dtype.itemsize}"), min(bits, dataset.BitsStored), 0)
    return array, "RGB" if samples > 1 else str(dataset.PhotometricInterpretation)
