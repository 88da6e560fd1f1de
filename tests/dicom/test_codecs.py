"""Codecs against independent encoders and each other: the same stored values, nothing made up where data are cut."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

import numpy as np
import pytest
from pydicom import Dataset, dcmread
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
    RLELossless,
    generate_uid,
)

from cxr_mmdet.dicom import codecs
from cxr_mmdet.dicom.codecs import PREFERENCE, CodecError, decode_frame
from cxr_mmdet.dicom.radiograph import read_radiograph
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
    imagecodecs = pytest.importorskip("imagecodecs")
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
    """One small picture in each compressed lossless syntax that can be made without other programs."""
    imagecodecs = pytest.importorskip("imagecodecs")
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
    imagecodecs = pytest.importorskip("imagecodecs")
    bits = 8 if syntax.endswith("50") else 12
    pixels = synthetic(f"{bits} bit")
    pixels[100:] = 0

    def dataset(keep: float) -> Dataset:
        lossless = {"lossless": True} if syntax.endswith("70") else {"level": 95}
        frame = imagecodecs.jpeg8_encode(pixels, bitspersample=bits, **lossless)
        return with_frame(make_dataset(pixels, bits), UID(syntax), frame[: int(len(frame) * keep)] + b"\xff\xd9")

    assert read_radiograph(dataset(1)).size_hw == pixels.shape
    for keep in (0.4, 0.6, 0.8):
        with pytest.raises(DicomError, match="ends before its picture"):
            pytest.fail(str(read_radiograph(dataset(keep))))


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51", "1.2.840.10008.1.2.4.70"])
@pytest.mark.parametrize(("end", "decodings"), [("black", 1), ("white", 1), ("grey", 2)])
def test_only_an_end_that_may_be_invented_is_decoded_twice(
    monkeypatch: pytest.MonkeyPatch, syntax: str, end: str, decodings: int
) -> None:
    """A second decoding of each black collimator's shadow doubled the time of lossless JPEG."""
    imagecodecs = pytest.importorskip("imagecodecs")
    bits = 8 if syntax.endswith("50") else 12
    pixels = synthetic(f"{bits} bit")
    pixels[96:] = {"black": 0, "white": 2**bits - 1, "grey": 2 ** (bits - 1)}[end]  # 96: blocks are not mixed
    lossless = {"lossless": True} if syntax.endswith("70") else {"level": 95}
    frame = imagecodecs.jpeg8_encode(pixels, bitspersample=bits, **lossless)
    calls = []
    decode = codecs._DECODE[UID(syntax)]
    monkeypatch.setitem(codecs._DECODE, UID(syntax), lambda *args: calls.append(1) or decode(*args))
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
        with pytest.raises(DicomError, match="ends before its picture"):
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
    monkeypatch.setitem(codecs._DECODE, JPEG2000Lossless, fail)
    np.testing.assert_array_equal(decode_frame(dataset, JPEG2000Lossless, 0)[0], synthetic("12 bit"))
    monkeypatch.setitem(PREFERENCE, JPEG2000Lossless, ("imagecodecs",))
    with pytest.raises(CodecError, match="out of order"):
        decode_frame(dataset, JPEG2000Lossless, 0)


def test_a_film_and_an_unknown_syntax_are_named() -> None:
    dataset = with_frame(make_dataset(synthetic("8 bit"), 8), MPEG2MPML, b"film")
    with pytest.raises(DicomError, match="MPEG2"):
        read_radiograph(dataset)
    dataset.file_meta.TransferSyntaxUID = UID("1.2.840.113619.5.2")
    with pytest.raises(DicomError, match=r"1\.2\.840\.113619\.5\.2"):
        read_radiograph(dataset)
