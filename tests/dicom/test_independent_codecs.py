"""Lossless syntaxes between codecs that share no code: FFmpeg's, OpenJPEG's and pydicom's own next to ours.

A real chest (pydicom-data's RG1) and phantoms, transcoded here: every decoder gives the uncompressed original's bits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import imagecodecs
import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.data import get_testdata_file
from pydicom.encaps import encapsulate, get_frame
from pydicom.uid import UID, HTJ2KLossless, JPEG2000Lossless, JPEGLosslessSV1, JPEGLSLossless, RLELossless

from cxr_mmdet.dicom.codecs import decode_frame
from cxr_mmdet.phantom import plan_case, render_phantom
from cxr_mmdet.structures.labels import LABELS_14

if TYPE_CHECKING:
    from collections.abc import Callable

FFMPEG = {JPEG2000Lossless: "jpeg2000", JPEGLSLossless: "jpegls", JPEGLosslessSV1: "mjpeg"}
"""FFmpeg's decoders, which are its own: no OpenJPEG, CharLS or libjpeg in them."""

ENCODE: dict[UID, Callable[[np.ndarray, int], bytes]] = {
    JPEG2000Lossless: lambda pixels, bits: imagecodecs.jpeg2k_encode(
        pixels, level=0, codecformat="J2K", reversible=True, bitspersample=bits
    ),
    JPEGLSLossless: lambda pixels, bits: imagecodecs.jpegls_encode(pixels),
    JPEGLosslessSV1: lambda pixels, bits: imagecodecs.ljpeg_encode(pixels, bitspersample=bits),
    HTJ2KLossless: lambda pixels, bits: imagecodecs.htj2k_encode(pixels, reversible=True),
}


def real_chest(name: str = "RG1_UNCR.dcm") -> np.ndarray:
    path = get_testdata_file(name, download=False)
    if path is None:
        pytest.skip("needs the package pydicom-data")
    return dcmread(path).pixel_array


@pytest.fixture(scope="module")
def phantom() -> np.ndarray:
    """Grey levels from 0 to 1 with the noise, edges and dark borders of a radiograph."""
    return np.clip(render_phantom(plan_case(3, 0, abnormal_share=1, labels=LABELS_14), size=384).image, 0, 1)


def pixels_of(kind: str, phantom: np.ndarray) -> tuple[np.ndarray, int]:
    """Return stored values and how many bits they have."""
    if kind == "real":
        return real_chest(), 15
    bits = int(kind.split()[1])
    return np.rint(phantom * (2**bits - 1)).astype(np.uint8 if bits == 8 else np.uint16), bits


def transcode(pixels: np.ndarray, bits: int, syntax: UID) -> Dataset:
    dataset = Dataset()
    dataset.file_meta = dcmread(get_testdata_file("CT_small.dcm", download=False)).file_meta
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PixelRepresentation = 1, "MONOCHROME2", 0
    dataset.BitsAllocated = pixels.dtype.itemsize * 8
    dataset.BitsStored, dataset.HighBit = bits, bits - 1
    dataset.PixelData = encapsulate([ENCODE[syntax](pixels, bits)])
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True
    return dataset


def by_ffmpeg(dataset: Dataset, bits: int) -> np.ndarray:
    av = pytest.importorskip("av")
    syntax = dataset.file_meta.TransferSyntaxUID
    context = av.CodecContext.create(FFMPEG[syntax], "r")
    frames = context.decode(av.Packet(get_frame(dataset.PixelData, 0, number_of_frames=1))) + context.decode(None)
    values = frames[0].to_ndarray()
    # All but JPEG-LS come scaled up to whole bytes.
    return values if syntax == JPEGLSLossless else values >> (8 * values.dtype.itemsize - bits)


@pytest.mark.parametrize("syntax", FFMPEG, ids=lambda syntax: FFMPEG[syntax])
@pytest.mark.parametrize("kind", ["real", "phantom 8", "phantom 12", "phantom 16"])
def test_ffmpegs_bits_and_the_originals(syntax: UID, kind: str, phantom: np.ndarray) -> None:
    pixels, bits = pixels_of(kind, phantom)
    dataset = transcode(pixels, bits, syntax)
    np.testing.assert_array_equal(decode_frame(dataset, syntax, 0)[0], pixels)
    if (syntax, bits) != (JPEGLosslessSV1, 16):  # FFmpeg 8 does not wrap differences of 16 bits (T.81 H.1.2.1)
        np.testing.assert_array_equal(by_ffmpeg(dataset, bits), pixels)


@pytest.mark.parametrize("kind", ["real", "phantom 8", "phantom 12", "phantom 16"])
def test_lossless_jpeg_of_libjpeg_turbo_is_liblj92s(kind: str, phantom: np.ndarray) -> None:
    pixels, bits = pixels_of(kind, phantom)
    frame = imagecodecs.jpeg8_encode(pixels, bitspersample=bits, lossless=True)
    np.testing.assert_array_equal(imagecodecs.ljpeg_decode(frame), pixels)
    dataset = transcode(pixels, bits, JPEGLosslessSV1)
    dataset.PixelData = encapsulate([frame])
    np.testing.assert_array_equal(decode_frame(dataset, JPEGLosslessSV1, 0)[0], pixels)


@pytest.mark.parametrize("kind", ["real", "phantom 8", "phantom 12", "phantom 16"])
def test_htj2k_of_openjph_is_openjpegs(kind: str, phantom: np.ndarray) -> None:
    openjpeg = pytest.importorskip("openjpeg")
    pixels, bits = pixels_of(kind, phantom)
    dataset = transcode(pixels, bits, HTJ2KLossless)
    np.testing.assert_array_equal(decode_frame(dataset, HTJ2KLossless, 0)[0], pixels)
    frame = get_frame(dataset.PixelData, 0, number_of_frames=1)
    np.testing.assert_array_equal(openjpeg.decode(frame), pixels)


@pytest.mark.parametrize("kind", ["real", "phantom 8", "phantom 12"])
def test_rle_is_pydicoms(kind: str, phantom: np.ndarray) -> None:
    pixels, bits = pixels_of(kind, phantom)
    dataset = transcode(pixels, bits, JPEGLSLossless)
    dataset.SOPInstanceUID = "1.2.3"
    dataset.decompress()
    dataset.compress(RLELossless, encoding_plugin="pydicom")
    np.testing.assert_array_equal(decode_frame(dataset, RLELossless, 0)[0], pixels)
    dataset.decompress(decoding_plugin="pydicom")
    np.testing.assert_array_equal(dataset.pixel_array, pixels)


SAME_IMAGES = [
    ("RG1_J2KR.dcm", "RG1_UNCR.dcm"),
    ("RG3_J2KR.dcm", "RG3_UNCR.dcm"),
    ("MR2_J2KR.dcm", "MR2_UNCR.dcm"),
    ("693_J2KR.dcm", "693_UNCR.dcm"),
    ("US1_J2KR.dcm", "US1_UNCR.dcm"),
    ("MR_small_RLE.dcm", "MR_small.dcm"),
    ("MR_small_jp2klossless.dcm", "MR_small.dcm"),
    ("MR_small_jpeg_ls_lossless.dcm", "MR_small.dcm"),
    ("OBXXXX1A_rle.dcm", "OBXXXX1A.dcm"),
    ("SC_rgb_rle_16bit.dcm", "SC_rgb_16bit.dcm"),
]


@pytest.mark.parametrize(("coded", "plain"), SAME_IMAGES)
def test_pydicoms_files_are_their_uncompressed_originals(coded: str, plain: str) -> None:
    paths = [get_testdata_file(name, download=False) for name in (coded, plain)]
    if None in paths:
        pytest.skip("needs the package pydicom-data")
    values = [decode_frame(data, data.file_meta.TransferSyntaxUID, 0)[0] for data in map(dcmread, paths)]
    np.testing.assert_array_equal(*values)
