"""Encoded pixel data to stored values: the fastest correct codec of each transfer syntax, with others behind it.

pydicom's decoders do the book-keeping (fragments, planes, signs, unused bits), the libraries behind them the decoding;
all are permissively licensed. imagecodecs (libjpeg-turbo, CharLS, OpenJPEG, OpenJPH) joins pydicom through its plugin
interface, which asks this module for ``DECODER_DEPENDENCIES``, ``is_available`` and the decoding function.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import imagecodecs
import numpy as np
from pydicom import Dataset, uid
from pydicom.encaps import encapsulate, get_frame
from pydicom.pixels import get_decoder

from cxr_mmdet.dicom.attributes import frame_count, one_line
from cxr_mmdet.dicom.codestream import read_codestream
from cxr_mmdet.dicom.rle import decode_rle

if TYPE_CHECKING:
    from collections.abc import Callable

    from pydicom.pixels.decoders.base import Decoder, DecodeRunner

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

_HUFFMAN_JPEG = frozenset(syntax for syntax, plugins in PREFERENCE.items() if plugins == _JPEG)
_CODESTREAM_SYNTAXES = frozenset(PREFERENCE) - {uid.RLELossless}


_FLAT_END = 16
_SURPLUS = np.random.default_rng(0).integers(0, 255, 1 << 14, np.uint8).tobytes()  # no 0xFF, which starts a marker

_PYDICOM_PREFACE = "Unable to decode as exceptions were raised by all available plugins:\n"


class CodecError(ValueError):
    """Pixel data that could not be turned into values; the message is the reason alone."""


def decode_frame(dataset: Dataset, syntax: uid.UID, index: int) -> tuple[np.ndarray, str]:
    """Return one frame's stored values and its photometric interpretation after decoding.

    Returns:
        (H, W) or (H, W, 3) integers, and the colour space they are in; YBR is converted to RGB.

    Raises:
        CodecError: no codec for the syntax, or data that contradict the header, are cut off or damaged.
    """
    decoder = decoder_of(syntax)
    frame = _checked_codestream(dataset, index) if syntax in _CODESTREAM_SYNTAXES else b""
    plugins = [name for name in PREFERENCE.get(syntax, ("",)) if not name or name in decoder.available_plugins]
    reasons = []
    for plugin in plugins:
        try:
            array, facts = decoder.as_array(dataset, index=index, decoding_plugin=plugin)
            ran_dry = syntax in _HUFFMAN_JPEG and _ran_dry(array, frame, dataset, decoder, plugin)
        # A library at its wits' end raises anything, from ValueError to RuntimeError and its own types.
        except Exception as error:
            reasons.append(one_line(str(error).removeprefix(_PYDICOM_PREFACE).split(" - ")[0]))
            continue
        if ran_dry:
            raise CodecError("the codestream ends before its picture does")
        return array.astype(array.dtype.newbyteorder("="), copy=False), str(facts["photometric_interpretation"])
    raise CodecError(f"the pixel data cannot be decoded ({'; '.join(dict.fromkeys(reasons))})")


def _ran_dry(array: np.ndarray, frame: bytes, dataset: Dataset, decoder: Decoder, plugin: str) -> bool:
    """Return whether the decoder invented the end of the picture: JPEG libraries paint what is missing flat, silently.

    A flat end may also be a collimator's shadow. What tells them apart is whether bytes put before the end marker
    change the picture: a decoder that had all it needed passes over them.
    """
    end_of_picture = array[-1, -_FLAT_END:]
    if np.ptp(end_of_picture) > 0 or (plugin == OWN_PLUGIN and not _is_invented_grey(end_of_picture, frame, dataset)):
        return False
    end = frame.rfind(b"\xff\xd9")
    trial = Dataset()
    trial.update(dataset)
    trial.file_meta = dataset.file_meta
    trial.NumberOfFrames = 1
    trial.PixelData = encapsulate([frame[:end] + _SURPLUS + frame[end:]])
    return not np.array_equal(decoder.as_array(trial, index=0, decoding_plugin=plugin)[0], array)


def _is_invented_grey(values: np.ndarray, frame: bytes, dataset: Dataset) -> bool:
    """Return whether ``values`` are what libjpeg-turbo paints: coefficients or differences of 0, so half of the range.

    It saves black and white borders a second decoding.
    """
    invented = 1 << (read_codestream(frame).precision - 1)
    kept = (1 << dataset.BitsStored) - 1
    return bool((values.astype(np.int64) & kept == invented & kept).all())


def decoder_of(syntax: uid.UID) -> Decoder:
    """Return pydicom's decoder of a syntax, with imagecodecs among its plugins.

    Raises:
        CodecError: the syntax is not one of pictures, or no codec for it is installed.
    """
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError:
        raise CodecError(
            f"its transfer syntax {one_line(syntax.name)} ({one_line(syntax)}) is not one of pictures"
        ) from None
    if syntax in DECODER_DEPENDENCIES and OWN_PLUGIN not in decoder.available_plugins:
        decoder.add_plugin(OWN_PLUGIN, (__name__, "decode_with_imagecodecs"))
    if not decoder.is_available:
        needed = " or ".join(decoder.missing_dependencies)
        raise CodecError(f"no codec for its transfer syntax {syntax.name} ({syntax}) is installed; install {needed}")
    return decoder


def _checked_codestream(dataset: Dataset, index: int) -> bytes:
    """Return the frame's codestream once its own header agrees with the dataset's."""
    try:
        frame = get_frame(dataset.PixelData, index, number_of_frames=frame_count(dataset))
        stream = read_codestream(frame)
    # pydicom's fragment parser raises struct.error, EOFError, IndexError... on damaged items.
    except Exception as error:
        raise CodecError(f"the pixel data are damaged ({one_line(str(error)) or type(error).__name__})") from None
    stated = (dataset.Rows, dataset.Columns)
    if stream.size_hw != stated:
        height, width = stream.size_hw
        raise CodecError(f"the codestream holds {width} x {height} pixels, the header says {stated[1]} x {stated[0]}")
    if stream.components != dataset.SamplesPerPixel:
        raise CodecError(
            f"the codestream holds {stream.components} components, the header says {dataset.SamplesPerPixel}"
        )
    if stream.precision > dataset.BitsAllocated:
        raise CodecError(
            f"the codestream has {stream.precision} bits a value, the header allocates {dataset.BitsAllocated}"
        )
    return frame


# What follows is pydicom's plugin interface (pydicom docs, "Decoding plugins").


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
    return _by_pixel(imagecodecs.jpeg2k_decode(data, numthreads=1), runner)


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
