"""Codecs against independent encoders and each other: the same stored values, nothing made up where data are cut."""

from __future__ import annotations

import shutil
import struct
import subprocess
import zlib
from io import BytesIO
from types import SimpleNamespace
from typing import TYPE_CHECKING

import cv2
import imagecodecs
import numpy as np
import pytest
from conftest import write_radiograph
from PIL import Image
from pydicom import Dataset, dcmread, dcmwrite
from pydicom.data import get_testdata_file
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate, get_frame
from pydicom.uid import (
    MPEG2MPML,
    UID,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    JPEG2000Lossless,
    JPEGExtended12Bit,
    JPEGLSLossless,
    RLELossless,
    generate_uid,
)

from cxr_mmdet.dicom import codecs, imagecodecs_plugin
from cxr_mmdet.dicom.codecs import PREFERENCE, CodecError, decode_frame
from cxr_mmdet.dicom.codestream import read_codestream
from cxr_mmdet.dicom.radiograph import read_radiograph
from cxr_mmdet.dicom.reduced import decode_reduced
from cxr_mmdet.errors import DicomError

if TYPE_CHECKING:
    from pathlib import Path

needs_dcmtk = pytest.mark.skipif(shutil.which("dcmcjpeg") is None, reason="needs the Debian package dcmtk")


def real_chest() -> np.ndarray:
    """The middle of pydicom-data's CR chest RG1, 15 bit."""
    path = get_testdata_file("RG1_UNCR.dcm", download=False)
    if path is None:
        pytest.skip("needs the package pydicom-data")
    return np.ascontiguousarray(dcmread(path).pixel_array[600:1000, 500:1001])


def synthetic(kind: str) -> np.ndarray:
    rng = np.random.default_rng(7)
    ramp = np.add.outer(np.arange(120) * 9, np.arange(91) * 20) + rng.integers(0, 40, (120, 91))
    return {
        "8 bit": (ramp % 256).astype(np.uint8),
        "12 bit": (ramp % 4096).astype(np.uint16),
        "16 bit": (ramp * 21 % 65536).astype(np.uint16),
        "signed 12 bit": (ramp % 4096 - 2048).astype(np.int16),
        "signed 16 bit": (ramp * 21 % 65536 - 32768).astype(np.int16),
    }[kind]


def make_dataset(pixels: np.ndarray, bits_stored: int) -> Dataset:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = DigitalXRayImageStorageForPresentation
    dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=["codecs"])
    dataset.SOPClassUID = DigitalXRayImageStorageForPresentation
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated = pixels.dtype.itemsize * 8
    dataset.BitsStored, dataset.HighBit = bits_stored, bits_stored - 1
    dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
    dataset.PixelData = pixels.tobytes()
    dataset["PixelData"].VR = "OW"
    return dataset


def with_frame(dataset: Dataset, syntax: UID, frame: bytes) -> Dataset:
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.PixelData = encapsulate([frame])
    dataset["PixelData"].is_undefined_length = True
    return dataset


def bits_of(kind: str) -> int:
    return int(kind.split()[-2])


def available_plugins(syntax: UID) -> list[str]:
    decoder = codecs.decoder_of(syntax)
    return [name for name in PREFERENCE[syntax] if name in decoder.available_plugins]


def decode_with_each(monkeypatch: pytest.MonkeyPatch, dataset: Dataset) -> dict[str, np.ndarray]:
    """What every installed codec of the syntax makes of ``dataset``."""
    syntax = dataset.file_meta.TransferSyntaxUID
    decoded = {}
    for plugin in available_plugins(syntax):
        monkeypatch.setitem(PREFERENCE, syntax, (plugin,))
        try:
            decoded[plugin] = decode_frame(dataset, syntax, 0)[0]
        except CodecError:
            continue
    return decoded


DCMTK = {
    "JPEG lossless SV1": ["dcmcjpeg", "+e1"],
    "JPEG lossless predictor 2": ["dcmcjpeg", "+el", "+sv", "2"],
    "JPEG lossless predictor 6": ["dcmcjpeg", "+el", "+sv", "6"],
    "JPEG-LS lossless": ["dcmcjpls", "+el"],
    "RLE": ["dcmcrle"],
    "deflated": ["dcmconv", "+td"],
    "big endian": ["dcmconv", "+tb"],
    "implicit": ["dcmconv", "+ti"],
}


@needs_dcmtk
@pytest.mark.parametrize("encoding", DCMTK)
@pytest.mark.parametrize("kind", ["8 bit", "12 bit", "16 bit", "signed 12 bit", "real 15 bit"])
def test_lossless_files_of_dcmtk_are_bit_identical(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoding: str, kind: str
) -> None:
    pixels = real_chest() if kind.startswith("real") else synthetic(kind)
    make_dataset(pixels, bits_of(kind)).save_as(tmp_path / "plain.dcm", enforce_file_format=True)
    subprocess.run([*DCMTK[encoding], "plain.dcm", "coded.dcm"], cwd=tmp_path, check=True)
    coded = dcmread(tmp_path / "coded.dcm")
    assert coded.file_meta.TransferSyntaxUID != ExplicitVRLittleEndian
    np.testing.assert_array_equal(decode_frame(coded, coded.file_meta.TransferSyntaxUID, 0)[0], pixels)
    if coded.file_meta.TransferSyntaxUID in PREFERENCE:
        for plugin, decoded in decode_with_each(monkeypatch, coded).items():
            np.testing.assert_array_equal(decoded, pixels, err_msg=plugin)
    np.testing.assert_array_equal(
        read_radiograph(tmp_path / "coded.dcm").pixels, read_radiograph(tmp_path / "plain.dcm").pixels
    )


@pytest.mark.parametrize("kind", ["8 bit", "12 bit", "16 bit", "signed 12 bit", "signed 16 bit", "real 15 bit"])
def test_lossless_jpeg2000_of_openjpeg_is_bit_identical(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    pixels = real_chest() if kind.startswith("real") else synthetic(kind)
    dataset = make_dataset(pixels, bits_of(kind))
    dataset.compress(JPEG2000Lossless, encoding_plugin="pylibjpeg")
    decoded = decode_with_each(monkeypatch, dataset)
    assert {"imagecodecs", "pylibjpeg"} <= set(decoded)
    for plugin, values in decoded.items():
        np.testing.assert_array_equal(values, pixels, err_msg=plugin)


@pytest.mark.parametrize("kind", ["8 bit", "12 bit", "16 bit", "real 15 bit"])
def test_lossless_htj2k_of_openjph_is_bit_identical(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    pixels = real_chest() if kind.startswith("real") else synthetic(kind)
    frame = imagecodecs.htj2k_encode(pixels, reversible=True)
    dataset = with_frame(make_dataset(pixels, bits_of(kind)), HTJ2KLossless, frame)
    decoded = decode_with_each(monkeypatch, dataset)
    assert {"imagecodecs", "pylibjpeg"} <= set(decoded)
    for plugin, values in decoded.items():
        np.testing.assert_array_equal(values, pixels, err_msg=plugin)


@needs_dcmtk
def test_12_bit_lossy_jpeg_is_dcmtks_within_one(tmp_path: Path) -> None:
    make_dataset(synthetic("12 bit"), 12).save_as(tmp_path / "plain.dcm", enforce_file_format=True)
    subprocess.run(["dcmcjpeg", "+ee", "plain.dcm", "coded.dcm"], cwd=tmp_path, check=True)
    subprocess.run(["dcmdjpeg", "coded.dcm", "back.dcm"], cwd=tmp_path, check=True)
    decoded = decode_frame(dcmread(tmp_path / "coded.dcm"), JPEGExtended12Bit, 0)[0]
    expected = dcmread(tmp_path / "back.dcm").pixel_array
    assert np.abs(decoded.astype(int) - expected).max() <= 1


SHIPPED = [
    "JPEG2000.dcm",
    "JPEG-LL.dcm",
    "JPEGLSNearLossless_08.dcm",
    "JPEGLSNearLossless_16.dcm",
    "J2K_pixelrep_mismatch.dcm",
    "MR_small_RLE.dcm",
    "MR_small_jp2klossless.dcm",
    "MR_small_jpeg_ls_lossless.dcm",
    "SC_rgb_jls_lossy_line.dcm",
    "SC_rgb_jls_lossy_sample.dcm",
    "SC_rgb_jpeg_gdcm.dcm",
    "SC_rgb_rle.dcm",
    "SC_rgb_jpeg_dcmtk.dcm",
    "US1_J2KR.dcm",
]


@pytest.mark.parametrize("file_name", SHIPPED)
def test_every_installed_codec_agrees_on_pydicoms_files(monkeypatch: pytest.MonkeyPatch, file_name: str) -> None:
    path = get_testdata_file(file_name, download=False)
    if path is None:
        pytest.skip("needs the package pydicom-data")
    dataset = dcmread(path)
    decoded = decode_with_each(monkeypatch, dataset)
    assert decoded
    first = next(iter(decoded.values()))
    for plugin, values in decoded.items():
        np.testing.assert_array_equal(values, first, err_msg=plugin)


def coded_datasets() -> dict[str, Dataset]:
    """One small image in each compressed lossless syntax that can be made without other programs."""
    pixels = synthetic("12 bit")
    frames = {
        "1.2.840.10008.1.2.4.70": imagecodecs.ljpeg_encode(pixels, bitspersample=12),
        "1.2.840.10008.1.2.4.80": imagecodecs.jpegls_encode(pixels),
        "1.2.840.10008.1.2.4.90": imagecodecs.jpeg2k_encode(
            pixels, level=0, codecformat="J2K", reversible=True, bitspersample=12
        ),
        "1.2.840.10008.1.2.4.201": imagecodecs.htj2k_encode(pixels, reversible=True),
    }
    datasets = {syntax: with_frame(make_dataset(pixels, 12), UID(syntax), frame) for syntax, frame in frames.items()}
    rle = make_dataset(pixels, 12)
    rle.compress(RLELossless)
    return datasets | {str(RLELossless): rle}


@pytest.mark.parametrize("keep", [0.02, 0.3, 0.5, 0.9, 0.99])
def test_a_cut_codestream_is_refused_not_half_shown(keep: float) -> None:
    for syntax, dataset in coded_datasets().items():
        frame = get_frame(dataset.PixelData, 0, number_of_frames=1)
        dataset.PixelData = encapsulate([frame[: int(len(frame) * keep)]])
        with pytest.raises(DicomError):
            pytest.fail(f"{syntax}: {read_radiograph(dataset)}")


@pytest.mark.parametrize("removed", [7, 500])
def test_a_codestream_with_a_hole_is_refused_or_whole(removed: int) -> None:
    """JPEG 2000 knows the length of its tile-parts; the others may only notice."""
    for syntax, dataset in coded_datasets().items():
        frame = get_frame(dataset.PixelData, 0, number_of_frames=1)
        middle = len(frame) // 2
        dataset.PixelData = encapsulate([frame[:middle] + frame[middle + removed :]])
        if syntax in ("1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.201", str(RLELossless)):
            with pytest.raises(DicomError):
                pytest.fail(f"{syntax}: {read_radiograph(dataset)}")


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51", "1.2.840.10008.1.2.4.70"])
def test_a_jpeg_that_runs_dry_is_refused_but_a_dark_border_is_not(syntax: str) -> None:
    bits = 8 if syntax.endswith("50") else 12
    pixels = synthetic(f"{bits} bit")
    pixels[100:] = 0

    def dataset(keep: float) -> Dataset:
        lossless = {"lossless": True} if syntax.endswith("70") else {"level": 95}
        frame = imagecodecs.jpeg8_encode(pixels, bitspersample=bits, **lossless)
        return with_frame(make_dataset(pixels, bits), UID(syntax), frame[: int(len(frame) * keep)] + b"\xff\xd9")

    assert read_radiograph(dataset(1)).size_hw == pixels.shape
    for keep in (0.4, 0.6, 0.8):
        with pytest.raises(DicomError, match="ends before its image"):
            pytest.fail(str(read_radiograph(dataset(keep))))


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51", "1.2.840.10008.1.2.4.70"])
@pytest.mark.parametrize(("end", "decodings"), [("black", 1), ("white", 1), ("grey", 2)])
def test_only_an_end_that_may_be_invented_is_decoded_twice(
    monkeypatch: pytest.MonkeyPatch, syntax: str, end: str, decodings: int
) -> None:
    """A second decoding of each black collimator's shadow doubled the time of lossless JPEG."""
    bits = 8 if syntax.endswith("50") else 12
    pixels = synthetic(f"{bits} bit")
    pixels[96:] = {"black": 0, "white": 2**bits - 1, "grey": 2 ** (bits - 1)}[end]  # 96: blocks are not mixed
    lossless = {"lossless": True} if syntax.endswith("70") else {"level": 95}
    frame = imagecodecs.jpeg8_encode(pixels, bitspersample=bits, **lossless)
    calls = []
    decode = imagecodecs_plugin._DECODE[UID(syntax)]
    monkeypatch.setitem(imagecodecs_plugin._DECODE, UID(syntax), lambda *args: calls.append(1) or decode(*args))
    values, _ = decode_frame(with_frame(make_dataset(pixels, bits), UID(syntax), frame), UID(syntax), 0)
    assert np.ptp(values[100:]) == 0
    assert len(calls) == decodings


@needs_dcmtk
@pytest.mark.parametrize("predictor", range(1, 8))
@pytest.mark.parametrize("kind", ["8 bit", "12 bit", "signed 12 bit", "16 bit"])
def test_a_lossless_jpeg_that_runs_dry_is_refused_with_every_predictor(
    tmp_path: Path, predictor: int, kind: str
) -> None:
    make_dataset(synthetic(kind), bits_of(kind)).save_as(tmp_path / "plain.dcm", enforce_file_format=True)
    command = ["dcmcjpeg", "+el", "+sv", str(predictor), "plain.dcm", "coded.dcm"]
    subprocess.run(command, cwd=tmp_path, check=True)
    coded = dcmread(tmp_path / "coded.dcm")
    frame = get_frame(coded.PixelData, 0, number_of_frames=1)
    for keep in (0.1, 0.5, 0.95):
        coded.PixelData = encapsulate([frame[: int(len(frame) * keep)] + b"\xff\xd9"])
        with pytest.raises(DicomError, match="ends before its image"):
            pytest.fail(f"{keep}: {read_radiograph(coded)}")


def test_the_codestreams_own_size_is_checked_before_decoding() -> None:
    for dataset in coded_datasets().values():
        if dataset.file_meta.TransferSyntaxUID == RLELossless:
            continue
        dataset.Rows += 1
        with pytest.raises(DicomError, match="the codestream holds 91 x 120 pixels, the header says 91 x 121"):
            read_radiograph(dataset)


def test_a_failing_codec_has_a_second_behind_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(data: bytes, runner: object) -> np.ndarray:
        raise RuntimeError("out of order")

    dataset = coded_datasets()[str(JPEG2000Lossless)]
    monkeypatch.setitem(imagecodecs_plugin._DECODE, JPEG2000Lossless, fail)
    np.testing.assert_array_equal(decode_frame(dataset, JPEG2000Lossless, 0)[0], synthetic("12 bit"))
    monkeypatch.setitem(PREFERENCE, JPEG2000Lossless, ("imagecodecs",))
    with pytest.raises(CodecError, match="out of order"):
        decode_frame(dataset, JPEG2000Lossless, 0)


def test_syntaxes_that_are_not_decoded_are_named_truly() -> None:
    dataset = with_frame(make_dataset(synthetic("8 bit"), 8), MPEG2MPML, b"film")
    with pytest.raises(DicomError, match=r"MPEG2 .* is one of films; a radiograph is one image"):
        read_radiograph(dataset)
    dataset.file_meta.TransferSyntaxUID = UID("1.2.840.113619.5.99")
    with pytest.raises(
        DicomError, match=r"transfer syntax 1\.2\.840\.113619\.5\.99 is not known here; convert the file"
    ):
        read_radiograph(dataset)


COMMENT = bytes.fromhex("ff64000b000150414444494e47")
"""A COM segment, as Canon's DX writes it between the last tile-part and EOC."""


def jpeg2000(pixels: np.ndarray, bits: int) -> bytes:
    return bytes(imagecodecs.jpeg2k_encode(pixels, level=0, codecformat="J2K", reversible=True, bitspersample=bits))


def test_marker_segments_behind_the_last_tile_part(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = synthetic("12 bit")
    frame = jpeg2000(pixels, 12)
    for segments in (COMMENT, COMMENT + COMMENT):
        dataset = with_frame(make_dataset(pixels, 12), JPEG2000Lossless, frame[:-2] + segments + frame[-2:])
        for plugin, values in decode_with_each(monkeypatch, dataset).items():
            np.testing.assert_array_equal(values, pixels, err_msg=plugin)
        reduced = decode_reduced(dataset, JPEG2000Lossless, 0, 1)
        whole = decode_reduced(with_frame(make_dataset(pixels, 12), JPEG2000Lossless, frame), JPEG2000Lossless, 0, 1)
        assert whole is not None
        np.testing.assert_array_equal(reduced, whole)
    for cut in (frame[:-2] + COMMENT, frame[:-2] + COMMENT[:-3], frame[:-2] + b"\xff\x64\x00\x00" + frame[-2:]):
        with pytest.raises(DicomError, match=r"cut off|damaged"):
            read_radiograph(with_frame(make_dataset(pixels, 12), JPEG2000Lossless, cut))


@pytest.mark.parametrize("tail", [b"", b"\0", b" ", b" \0", b"\xff", b"\x80", b"\xfe\0"])
def test_rle_padded_with_anything(tail: bytes) -> None:
    pixels = synthetic("8 bit")
    packed = bytes(imagecodecs.packbits_encode(pixels.tobytes()))
    header = struct.pack("<16I", 1, 64, *[0] * 14)
    dataset = with_frame(make_dataset(pixels, 8), RLELossless, header + packed + tail)
    np.testing.assert_array_equal(decode_frame(dataset, RLELossless, 0)[0], pixels)
    for cut in (10, 1000, len(packed) - 10):
        dataset = with_frame(make_dataset(pixels, 8), RLELossless, header + packed[:cut] + tail)
        with pytest.raises(
            DicomError, match=r"an RLE segment (is damaged or cut off|holds \d+ bytes instead of 10920)"
        ):
            read_radiograph(dataset)


@pytest.mark.parametrize("kind", ["8 bit", "12 bit", "16 bit", "signed 12 bit", "signed 16 bit"])
@pytest.mark.parametrize("is_right", ["codestream", "header"])
def test_a_jpeg2000_whose_sign_is_not_the_headers(kind: str, is_right: str) -> None:
    """Shown by the sign without which values wrap around: the codestream's, or the header's where bits were reused."""
    pixels, bits = synthetic(kind), bits_of(kind)
    smooth = (np.linspace(0, 1, 120)[:, None] * np.ones(91) + np.linspace(0, 1, 91)) / 2
    pixels = np.rint(smooth * (2**bits - 1) - (2 ** (bits - 1) if pixels.dtype.kind == "i" else 0)).astype(pixels.dtype)
    is_signed = pixels.dtype.kind == "i"
    dataset = make_dataset(pixels, bits)
    if is_right == "codestream":
        dataset.PixelRepresentation = int(not is_signed)
        frame = jpeg2000(pixels, bits)
    else:  # the same bits under the other sign
        bitwise = pixels.astype(np.int64) % 2**bits
        if not is_signed:
            bitwise = np.where(bitwise >= 2 ** (bits - 1), bitwise - 2**bits, bitwise)
        other = np.dtype(f"{'u' if is_signed else 'i'}{pixels.dtype.itemsize}")
        frame = jpeg2000(bitwise.astype(other), bits)
    warnings: list[str] = []
    values, _ = decode_frame(with_frame(dataset, JPEG2000Lossless, frame), JPEG2000Lossless, 0, warnings)
    np.testing.assert_array_equal(values, pixels)
    assert len(warnings) == 1
    assert f"shown as {'signed' if is_signed else 'unsigned'}" in warnings[0]


@needs_dcmtk
@pytest.mark.parametrize(("option", "syntax"), [("+es", "53"), ("+ep", "55")])
@pytest.mark.parametrize("kind", ["8 bit", "12 bit"])
def test_jpeg_in_scans_is_dcmtks(tmp_path: Path, option: str, syntax: str, kind: str) -> None:
    make_dataset(synthetic(kind), bits_of(kind)).save_as(tmp_path / "plain.dcm", enforce_file_format=True)
    subprocess.run(["dcmcjpeg", option, "plain.dcm", "coded.dcm"], cwd=tmp_path, check=True)
    subprocess.run(["dcmdjpeg", "coded.dcm", "back.dcm"], cwd=tmp_path, check=True)
    coded = dcmread(tmp_path / "coded.dcm")
    assert coded.file_meta.TransferSyntaxUID == f"1.2.840.10008.1.2.4.{syntax}"
    decoded, _ = decode_frame(coded, coded.file_meta.TransferSyntaxUID, 0)
    assert np.abs(decoded.astype(int) - dcmread(tmp_path / "back.dcm").pixel_array).max() <= 1
    frame = get_frame(coded.PixelData, 0, number_of_frames=1)
    for keep in (0.2, 0.5, 0.8, 0.95):
        coded.PixelData = encapsulate([frame[: int(len(frame) * keep)] + b"\xff\xd9"])
        with pytest.raises(DicomError, match=r"ends before its image|scans that refine its image are missing"):
            pytest.fail(f"{keep}: {read_radiograph(coded)}")


def test_a_jpeg_of_a_thousand_scans_is_refused() -> None:
    buffer = BytesIO()
    Image.fromarray(synthetic("8 bit")).save(buffer, "JPEG", progressive=True)
    frame = buffer.getvalue()
    scan = frame.rindex(b"\xff\xda")
    bomb = frame[:scan] + 1000 * frame[scan:-2] + frame[-2:]
    dataset = with_frame(make_dataset(synthetic("8 bit"), 8), UID("1.2.840.10008.1.2.4.55"), frame)
    assert read_radiograph(dataset).size_hw == (120, 91)
    with pytest.raises(DicomError, match="more than 200 scans"):
        read_radiograph(with_frame(dataset, dataset.file_meta.TransferSyntaxUID, bomb))


@pytest.mark.parametrize("number", [110, 111, 112])
@pytest.mark.parametrize("kind", ["8 bit", "12 bit", "16 bit", "signed 12 bit"])
def test_jpeg_xl(number: int, kind: str) -> None:
    pixels, bits = synthetic(kind), bits_of(kind)
    unsigned = (pixels.astype(np.int64) % 2**bits).astype(f"u{pixels.dtype.itemsize}")
    frame = bytes(imagecodecs.jpegxl_encode(unsigned, lossless=True, bitspersample=bits))
    syntax = UID(f"1.2.840.10008.1.2.4.{number}")
    dataset = with_frame(make_dataset(pixels, bits), syntax, frame)
    np.testing.assert_array_equal(decode_frame(dataset, syntax, 0)[0], pixels)
    assert read_radiograph(dataset).transfer_syntax.startswith("JPEG XL")
    for cut in (0, 1, 7, 20, len(frame) // 2, len(frame) - 9):
        with pytest.raises(DicomError):
            pytest.fail(str(read_radiograph(with_frame(make_dataset(pixels, bits), syntax, frame[:cut] + b"\0"))))
    dataset = with_frame(make_dataset(pixels, bits), syntax, frame)
    dataset.Rows += 1
    with pytest.raises(DicomError, match="the codestream holds 91 x 120 pixels, the header says 91 x 121"):
        read_radiograph(dataset)


@pytest.mark.parametrize("size_hw", [(8, 8), (256, 128), (300, 400), (90, 160), (4000, 3), (1, 70000)])
def test_the_size_that_jpeg_xl_states(size_hw: tuple[int, int]) -> None:
    for pixels in (np.zeros(size_hw, np.uint8), np.zeros(size_hw, np.uint16)):  # the latter stand in a box
        assert read_codestream(bytes(imagecodecs.jpegxl_encode(pixels, lossless=True))).size_hw == size_hw


def test_colour_in_jpeg_xl() -> None:
    pixels = np.stack([synthetic("8 bit")] * 3, axis=-1)
    dataset = make_dataset(synthetic("8 bit"), 8)
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PlanarConfiguration = 3, "RGB", 0
    syntax = UID("1.2.840.10008.1.2.4.110")
    frame = bytes(imagecodecs.jpegxl_encode(pixels, lossless=True))
    radiograph = read_radiograph(with_frame(dataset, syntax, frame))
    np.testing.assert_array_equal(radiograph.pixels, pixels[..., 0])


def test_encapsulated_pixels_that_are_not_compressed_or_deflated() -> None:
    pixels = synthetic("12 bit")
    raw = pixels.tobytes()
    deflate = zlib.compressobj(wbits=-15)
    frames = {
        "1.2.840.10008.1.2.1.98": raw,
        "1.2.840.10008.1.2.8.1": deflate.compress(raw) + deflate.flush(),
    }
    for syntax, frame in frames.items():
        dataset = with_frame(make_dataset(pixels, 12), UID(syntax), frame)
        np.testing.assert_array_equal(decode_frame(dataset, UID(syntax), 0)[0], pixels)
        with pytest.raises(DicomError, match=r"less than expected|unpack to fewer"):
            read_radiograph(with_frame(make_dataset(pixels, 12), UID(syntax), frame[: len(frame) // 2]))
    deflate = zlib.compressobj(wbits=-15)
    bomb = deflate.compress(bytes(1 << 26)) + deflate.flush()
    with pytest.raises(DicomError, match="unpack to more than the 21840 bytes"):
        read_radiograph(with_frame(make_dataset(pixels, 12), UID(syntax), bomb))


@pytest.mark.parametrize("kind", ["8 bit", "12 bit"])
def test_ges_private_syntax(tmp_path: Path, kind: str) -> None:
    """Implicit VR, pixels in big-endian words; dcmtk shows it."""
    pixels = synthetic(kind)
    dataset = make_dataset(pixels, bits_of(kind))
    dataset.WindowCenter, dataset.WindowWidth = 2 ** (bits_of(kind) - 1), 2 ** bits_of(kind)
    expected = read_radiograph(dataset).pixels
    dataset.file_meta.TransferSyntaxUID = UID("1.2.840.113619.5.2")
    dataset.PixelData = np.frombuffer(pixels.tobytes(), np.uint16).byteswap().tobytes()
    dcmwrite(tmp_path / "ge.dcm", dataset, implicit_vr=True, little_endian=True)
    radiograph = read_radiograph(tmp_path / "ge.dcm")
    np.testing.assert_array_equal(radiograph.pixels, expected)
    assert "GE Private" in radiograph.transfer_syntax
    if shutil.which("dcm2pnm"):
        subprocess.run(["dcm2pnm", "+op", "+Wi", "1", "ge.dcm", "ge.pgm"], cwd=tmp_path, check=True)
        shown = cv2.imread(str(tmp_path / "ge.pgm"), cv2.IMREAD_GRAYSCALE)
        assert np.abs(shown.astype(int) - expected).max() <= 1


RELATIVES = {
    "lossless JPEG": lambda pixels: imagecodecs.ljpeg_encode(pixels, bitspersample=12),
    "JPEG": lambda pixels: imagecodecs.jpeg8_encode(pixels, bitspersample=12, level=100),
    "JPEG-LS": imagecodecs.jpegls_encode,
    "JPEG 2000": lambda pixels: jpeg2000(pixels, 12),
    "HTJ2K": lambda pixels: imagecodecs.htj2k_encode(pixels, reversible=True),
    "JPEG XL": lambda pixels: imagecodecs.jpegxl_encode(pixels, lossless=True, bitspersample=12),
    "RLE": lambda pixels: get_frame(rle_of(pixels).PixelData, 0, number_of_frames=1),
}


def rle_of(pixels: np.ndarray) -> Dataset:
    dataset = make_dataset(pixels, 12)
    dataset.compress(RLELossless)
    return dataset


@pytest.mark.parametrize("really", RELATIVES)
@pytest.mark.parametrize("syntax", ["1", "2.4.50", "2.4.70", "2.4.80", "2.4.90", "2.4.201", "2.4.110", "2.5"])
def test_a_frame_is_what_its_first_bytes_say(really: str, syntax: str) -> None:
    pixels = synthetic("12 bit")
    said = UID(f"1.2.840.10008.1.{syntax}" if syntax != "1" else ExplicitVRLittleEndian)
    dataset = with_frame(make_dataset(pixels, 12), said, bytes(RELATIVES[really](pixels)))
    warnings: list[str] = []
    values, _ = decode_frame(dataset, said, 0, warnings)
    assert np.abs(values.astype(int) - pixels).max() <= (4 if really == "JPEG" else 0)
    matching = {"2.4.50": "JPEG", "2.4.70": "lossless JPEG", "2.4.80": "JPEG-LS", "2.4.90": "JPEG 2000"}
    matching |= {"2.4.201": "HTJ2K", "2.4.110": "JPEG XL", "2.5": "RLE"}
    assert len(warnings) == (matching.get(syntax) != really)
    if warnings:
        assert warnings[0].endswith(f"its pixel data are {really}")


def test_pixels_that_are_not_encoded_under_a_compressed_syntax() -> None:
    pixels = synthetic("12 bit")
    dataset = make_dataset(pixels, 12)
    dataset.file_meta.TransferSyntaxUID = JPEG2000Lossless
    warnings: list[str] = []
    np.testing.assert_array_equal(decode_frame(dataset, JPEG2000Lossless, 0, warnings)[0], pixels)
    assert len(warnings) == 1


def test_values_that_only_look_like_an_item_are_values() -> None:
    pixels = synthetic("16 bit")
    pixels[0, :2] = 0xFFFE, 0xE000
    np.testing.assert_array_equal(decode_frame(make_dataset(pixels, 16), ExplicitVRLittleEndian, 0)[0], pixels)


@pytest.mark.parametrize("columns", [91, 90])
def test_12_bits_packed(tmp_path: Path, columns: int) -> None:
    pixels = np.ascontiguousarray(synthetic("12 bit")[:119, :columns])
    dataset = make_dataset(pixels, 12)
    dataset.WindowCenter, dataset.WindowWidth = 2048, 4096
    expected = read_radiograph(dataset).pixels
    bits = np.unpackbits(pixels.astype("<u2").view(np.uint8).reshape(-1, 2), axis=1, bitorder="little")[:, :12]
    packed = np.packbits(bits, bitorder="little").tobytes()
    dataset.BitsAllocated, dataset.PixelData = 12, packed + bytes(len(packed) % 2)
    dataset.save_as(tmp_path / "x.dcm", enforce_file_format=True)
    np.testing.assert_array_equal(read_radiograph(tmp_path / "x.dcm").pixels, expected)
    if shutil.which("dcm2pnm"):
        subprocess.run(["dcm2pnm", "+op", "+Wi", "1", "x.dcm", "x.pgm"], cwd=tmp_path, check=True)
        assert np.abs(cv2.imread(str(tmp_path / "x.pgm"), cv2.IMREAD_GRAYSCALE).astype(int) - expected).max() <= 1
    dataset.PixelData = dataset.PixelData[:-10]
    with pytest.raises(DicomError, match="the pixel data are cut off"):
        read_radiograph(dataset)


def test_a_grey_end_leaves_the_callers_pixel_data_alone() -> None:
    """The second decoding wrote its surplus bytes into the caller's dataset; fill bytes made it fail."""
    pixels = synthetic("8 bit")
    pixels[96:] = 128
    frame = bytes(imagecodecs.jpeg8_encode(pixels, level=95))
    frame = frame[:-2] + b"\xff\xff\xff\xff\xd9"
    dataset = with_frame(make_dataset(pixels, 8), UID("1.2.840.10008.1.2.4.50"), frame)
    before = dataset.PixelData
    read_radiograph(dataset)
    assert dataset.PixelData == before


@pytest.mark.parametrize("kind", ["12 bit", "signed 12 bit"])
@pytest.mark.parametrize("family", ["JPEG-LS", "JPEG 2000", "HTJ2K"])
def test_bits_above_the_stored_ones_are_ignored_in_codestreams_that_hold_them(kind: str, family: str) -> None:
    """dcmtk's JPEG-LS of overlays in the upper bits, and of signed values whose sign is cut short."""
    pixels = synthetic(kind)
    raw = pixels.astype(np.uint16) & 0x0FFF
    if kind == "12 bit":
        raw |= (np.arange(120, dtype=np.uint16) % 16 << 12)[:, None]
    encode = {"JPEG-LS": imagecodecs.jpegls_encode, "JPEG 2000": lambda values: jpeg2000(values, 16)}
    encode["HTJ2K"] = lambda values: imagecodecs.htj2k_encode(values, reversible=True)
    # JPEG-LS has no signs.
    coded = bytes(encode[family](raw if family == "JPEG-LS" else raw.astype(pixels.dtype)))
    syntax = UID({"JPEG-LS": JPEGLSLossless, "JPEG 2000": JPEG2000Lossless, "HTJ2K": HTJ2KLossless}[family])
    values, _ = decode_frame(with_frame(make_dataset(pixels, 12), syntax, coded), syntax, 0)
    np.testing.assert_array_equal(values, pixels)


@pytest.mark.parametrize("threads", [1, 3])
def test_jpeg2000_is_decoded_by_the_threads_that_opencv_may_use(threads, monkeypatch):
    """By all cores for one radiograph, by one in each of several worker processes; the pixels are the same."""
    pixels = np.random.default_rng(0).integers(0, 4096, (300, 200), dtype=np.uint16)
    frame = imagecodecs.jpeg2k_encode(pixels, level=0, codecformat="J2K", reversible=True, bitspersample=12)
    given = []
    decode = imagecodecs.jpeg2k_decode
    monkeypatch.setattr(imagecodecs, "jpeg2k_decode", lambda *a, **k: given.append(k["numthreads"]) or decode(*a, **k))
    monkeypatch.setattr(cv2, "getNumThreads", lambda: threads)
    runner = SimpleNamespace(samples_per_pixel=1, rows=300, columns=200)
    np.testing.assert_array_equal(imagecodecs_plugin._DECODE[JPEG2000Lossless](frame, runner), pixels)
    assert given == [threads]


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize(("bits", "junk"), [(16, 0), (12, 0), (12, 0b1010), (9, 0), (9, 0b1010)])
def test_uncompressed_values_are_copied_only_where_unused_bits_are_used(tmp_path, signed, bits, junk):
    values = np.arange(1 << bits).reshape(2, -1) - (signed << (bits - 1))
    stored = (values & ((1 << bits) - 1) | (junk << bits) if junk else values) & 0xFFFF
    attributes = {"BitsStored": bits, "HighBit": bits - 1, "PixelRepresentation": int(signed)}
    dataset = dcmread(write_radiograph(tmp_path / "a.dcm", stored.astype(np.uint16), **attributes))
    found, _ = decode_frame(dataset, ExplicitVRLittleEndian, 0)
    np.testing.assert_array_equal(found, values)
    assert np.shares_memory(found, np.frombuffer(dataset.PixelData, np.uint8)) == (not junk)
