"""One way from a file to pixels: order of steps, inversion, windows and refusals, against pydicom and formulas."""

from __future__ import annotations

import gc
import pickle
import struct
import weakref
from io import BytesIO
from typing import Any

import cv2
import numpy as np
import pytest
from oracle import by_pydicom
from pydicom import Dataset, dcmread, dcmwrite
from pydicom.data import get_testdata_file
from pydicom.dataset import FileMetaDataset
from pydicom.pixels import apply_modality_lut, apply_voi_lut
from pydicom.sequence import Sequence
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    RLELossless,
    generate_uid,
)

from cxr_mmdet.dicom.radiograph import Radiograph, read_radiograph
from cxr_mmdet.dicom.source import parse_dataset
from cxr_mmdet.dicom.viewing import read_viewable
from cxr_mmdet.errors import DicomError

RAMP12 = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64)


def make_dataset(
    pixels: np.ndarray, *, bits_stored: int = 12, photometric: str = "MONOCHROME2", **attributes: Any
) -> Dataset:
    """A minimal DX image with ``pixels`` uncompressed."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = DigitalXRayImageStorageForPresentation
    dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=["radiograph"])
    dataset.SOPClassUID = DigitalXRayImageStorageForPresentation
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID
    dataset.PatientID = "SECRET-4711"
    dataset.PatientName = "Doe^Jane"
    dataset.Rows, dataset.Columns = pixels.shape[:2]
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = photometric
    dataset.BitsAllocated = pixels.dtype.itemsize * 8
    dataset.BitsStored = bits_stored
    dataset.HighBit = bits_stored - 1
    dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
    dataset.PixelData = pixels.tobytes()
    dataset["PixelData"].VR = "OW"
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    return dataset


def lut_item(first: int, entries: np.ndarray, bits: int) -> Dataset:
    item = Dataset()
    item.LUTDescriptor = [len(entries) % 65536, first, bits]
    item.LUTData = entries.astype("<u2").tobytes()
    item["LUTData"].VR = "OW"
    return item


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize(
    "attributes",
    [
        {"WindowCenter": 2048, "WindowWidth": 4096},
        {"WindowCenter": 1000, "WindowWidth": 500, "VOILUTFunction": "LINEAR"},
        {"WindowCenter": 1000, "WindowWidth": 500, "VOILUTFunction": "LINEAR_EXACT"},
        {"WindowCenter": 1000, "WindowWidth": 500, "VOILUTFunction": "SIGMOID"},
        {"WindowCenter": [700, 2000], "WindowWidth": [900, 100]},
        {"WindowCenter": 0, "WindowWidth": 2000, "RescaleSlope": 2, "RescaleIntercept": -1024},
        {"VOILUTSequence": Sequence([lut_item(100, np.arange(4000)[::-1], 12)])},
    ],
)
def test_display_is_pydicoms_within_one_grey_level(photometric: str, attributes: dict[str, Any]) -> None:
    dataset = make_dataset(RAMP12, photometric=photometric, **attributes)
    radiograph = read_radiograph(dataset)
    assert radiograph.warnings == ()
    assert np.abs(radiograph.pixels - by_pydicom(dataset)).max() <= 1


@pytest.mark.parametrize("file_name", ["vlut_04.dcm", "mlut_18.dcm"])
def test_luts_of_shipped_files_are_pydicoms(file_name: str) -> None:
    path = get_testdata_file(file_name, download=False)
    if path is None:
        pytest.skip("needs the package pydicom-data")
    dataset = dcmread(path)
    shown = read_radiograph(path, bits=16)
    values = apply_voi_lut(apply_modality_lut(dataset.pixel_array, dataset), dataset).astype(np.float64)
    if file_name == "mlut_18.dcm":  # no VOI: percentiles of what the Modality LUT gives
        low, high = np.percentile(values, [0.5, 99.5], method="inverted_cdf")
        assert shown.windowing.startswith("percentiles")
        values = np.clip((values - low) / (high - low), 0, 1)
    else:
        values /= 2 ** dataset.VOILUTSequence[0].LUTDescriptor[2] - 1
    assert np.abs(shown.pixels - values * 65535).max() <= 0.5 + 1e-6


def test_a_modality_lut_replaces_the_rescale() -> None:
    lut = lut_item(0, (np.arange(4096) ** 2 // 4096).astype(np.uint16), 12)
    dataset = make_dataset(RAMP12, ModalityLUTSequence=Sequence([lut]), WindowCenter=1500, WindowWidth=2000)
    values = RAMP12.astype(int) ** 2 // 4096
    expected = np.clip((values - 1499.5) / 1999 + 0.5, 0, 1) * 255
    assert np.abs(read_radiograph(dataset).pixels - expected).max() <= 0.5 + 1e-6


@pytest.mark.parametrize("broken", ["LUTDescriptor", "LUTData"])
def test_a_broken_voi_lut_gives_way_to_the_window(broken: str) -> None:
    item = lut_item(0, np.arange(4096), 12)
    delattr(item, broken)
    window = {"WindowCenter": 2048, "WindowWidth": 4096}
    radiograph = read_radiograph(make_dataset(RAMP12, VOILUTSequence=Sequence([item]), **window))
    assert radiograph.windowing == "window 1 of 1 (LINEAR)"
    assert radiograph.warnings == ("VOI LUT 1 of 1 is unreadable and was left out",)


@pytest.mark.parametrize("dtype", [np.uint32, np.int32, np.float32])
def test_wide_pixels(dtype: type) -> None:
    pixels = (RAMP12.astype(np.int64) * 1000 - 5).astype(dtype)
    if dtype is np.uint32:
        pixels[0, 0] = 0
    dataset = make_dataset(pixels, bits_stored=32)
    if dtype is np.float32:
        dataset.FloatPixelData = pixels.tobytes()
        del dataset.PixelData
    shown = read_radiograph(dataset).pixels
    reference = read_radiograph(make_dataset(RAMP12)).pixels
    np.testing.assert_array_equal(shown, reference)


def test_overlay_bits_above_the_stored_ones_are_ignored() -> None:
    window = {"WindowCenter": 2048, "WindowWidth": 4096}
    clean = read_radiograph(make_dataset(RAMP12, **window)).pixels
    np.testing.assert_array_equal(read_radiograph(make_dataset(RAMP12 | 0xA000, **window)).pixels, clean)


def test_completing_a_dataset_leaves_the_callers_as_it_was() -> None:
    dataset = make_dataset(RAMP12)
    del dataset.SamplesPerPixel, dataset.PhotometricInterpretation
    assert read_radiograph(dataset).photometric == "MONOCHROME2"
    assert "SamplesPerPixel" not in dataset


@pytest.mark.parametrize(
    ("attributes", "aspect"),
    [
        ({"PixelAspectRatio": [2, 1]}, 2.0),
        ({"ImagerPixelSpacing": [0.15, 0.3]}, 0.5),
        ({"ImagerPixelSpacing": [0.1431, 0.143]}, 1.0),
        ({"PixelAspectRatio": [90, 1]}, 1.0),
        ({"PixelSpacing": [0, 0]}, 1.0),
    ],
)
def test_pixel_aspect(attributes: dict[str, Any], aspect: float) -> None:
    radiograph = read_radiograph(make_dataset(RAMP12, **attributes))
    assert radiograph.pixel_aspect == pytest.approx(aspect)


def test_signed_pixels_are_pydicoms() -> None:
    pixels = (RAMP12.astype(np.int32) - 2048).astype(np.int16)
    dataset = make_dataset(pixels, WindowCenter=-500, WindowWidth=700)
    assert np.abs(read_radiograph(dataset).pixels - by_pydicom(dataset)).max() <= 1


def test_monochrome1_with_inverse_shape_is_inverted_once() -> None:
    window = {"WindowCenter": 2048, "WindowWidth": 4096}
    plain = read_radiograph(make_dataset(RAMP12, **window)).pixels
    for photometric, shape in [("MONOCHROME1", None), ("MONOCHROME1", "INVERSE"), ("MONOCHROME2", "INVERSE")]:
        attributes = window | ({"PresentationLUTShape": shape} if shape else {})
        inverted = read_radiograph(make_dataset(RAMP12, photometric=photometric, **attributes)).pixels
        assert np.abs(255 - plain.astype(int) - inverted).max() <= 1


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        ({}, "no window"),
        ({"WindowCenter": 2048, "WindowWidth": 0}, "no window"),
        ({"WindowCenter": 50000, "WindowWidth": 100}, "outside the data"),
        ({"WindowCenter": 1e9, "WindowWidth": 1e9}, "outside the data"),
        ({"WindowCenter": "", "WindowWidth": ""}, "no window"),
    ],
)
def test_without_a_usable_window_percentiles_are_shown(attributes: dict[str, Any], reason: str) -> None:
    radiograph = read_radiograph(make_dataset(RAMP12, **attributes))
    assert radiograph.windowing.startswith("percentiles 0.5-99.5")
    assert reason in radiograph.windowing
    # 4096 values, each once: 0.5 % is value 20 (the 21st), 99.5 % is value 4075.
    assert radiograph.pixels.ravel()[20] == 0
    assert radiograph.pixels.ravel()[21] == round(255 / (4075 - 20))
    assert radiograph.pixels.ravel()[2048] == round(255 * (2048 - 20) / (4075 - 20))
    assert radiograph.pixels.ravel()[4075] == 255


def test_padding_does_not_stretch_the_percentiles() -> None:
    pixels = RAMP12 // 8 + 1000
    plain = read_radiograph(make_dataset(pixels)).pixels
    pixels = np.vstack([pixels, np.full_like(pixels, 0)])
    padded = read_radiograph(make_dataset(pixels, PixelPaddingValue=0)).pixels
    np.testing.assert_array_equal(padded[:64], plain)
    assert not np.array_equal(read_radiograph(make_dataset(pixels)).pixels[:64], plain)


def test_another_window_by_number_or_name() -> None:
    names = {"WindowCenterWidthExplanation": ["LUNG", "BONE"]}
    dataset = make_dataset(RAMP12, WindowCenter=[700, 2000], WindowWidth=[900, 100], **names)
    first, second = read_radiograph(dataset), read_radiograph(dataset, window=1)
    assert first.windowing == "window 1 of 2 (LINEAR)"
    assert second.windowing == "window 2 of 2 (LINEAR)"
    np.testing.assert_array_equal(read_radiograph(dataset, window="bone").pixels, second.pixels)
    with pytest.raises(DicomError, match="the file has 2"):
        read_radiograph(dataset, window=2)
    with pytest.raises(DicomError, match="'LUNG', 'BONE'"):
        read_radiograph(dataset, window="heart")


def test_a_constant_image_is_a_warning() -> None:
    radiograph = read_radiograph(make_dataset(np.full((8, 8), 7, np.uint16)))
    assert not radiograph.pixels.any()
    assert radiograph.warnings == ("the image is constant",)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_constant_image_without_a_window_is_a_warning_too(dtype: type[np.unsignedinteger[Any]]) -> None:
    content = cv2.imencode(".png", np.full((8, 8), 7, dtype))[1].tobytes()
    assert read_radiograph(content).warnings == ("the image is constant",)
    colour = make_dataset(np.full((8, 8, 3), 7, np.uint8), bits_stored=8, photometric="RGB", PlanarConfiguration=0)
    colour.SamplesPerPixel = 3
    assert read_radiograph(colour).warnings == ("the image is constant",)


def test_what_the_radiograph_says_of_itself_and_what_not() -> None:
    dataset = make_dataset(RAMP12[:32], ImagerPixelSpacing=[0.2, 0.1], BurnedInAnnotation="YES")
    radiograph = read_radiograph(dataset)
    assert radiograph.size_hw == (32, 64)
    assert radiograph.pixel_spacing == (0.2, 0.1)
    assert radiograph.burned_in_annotation is True
    assert radiograph.patient_id == "SECRET-4711"
    assert "SECRET" not in repr(radiograph)
    assert "Doe" not in repr(radiograph)
    assert radiograph.pixels.flags.c_contiguous


def test_path_bytes_and_dataset_give_the_same(tmp_path: Any) -> None:
    dataset = make_dataset(RAMP12, WindowCenter=2048, WindowWidth=4096)
    path = tmp_path / "a.dicom"
    dataset.save_as(path, enforce_file_format=True)
    expected = read_radiograph(dataset).pixels
    for source in (path, str(path), path.read_bytes(), dcmread(path)):
        np.testing.assert_array_equal(read_radiograph(source).pixels, expected)
    bare = tmp_path / "bare.dicom"  # no preamble, no file meta
    del dataset.file_meta
    dcmwrite(bare, dataset, implicit_vr=True, little_endian=True)
    np.testing.assert_array_equal(read_radiograph(bare).pixels, expected)


def test_big_endian(tmp_path: Any) -> None:
    dataset = make_dataset(RAMP12, WindowCenter=2048, WindowWidth=4096)
    expected = read_radiograph(dataset).pixels
    dataset.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    dataset.PixelData = RAMP12.astype(">u2").tobytes()
    dcmwrite(tmp_path / "big.dcm", dataset, implicit_vr=False, little_endian=False, enforce_file_format=True)
    np.testing.assert_array_equal(read_radiograph(tmp_path / "big.dcm").pixels, expected)


def test_refusals_name_the_file_and_the_reason(tmp_path: Any) -> None:
    path = tmp_path / "bad.dcm"

    def refusal() -> str:
        with pytest.raises(DicomError) as caught:
            read_radiograph(path)
        assert str(path) in str(caught.value)
        return str(caught.value)

    assert "no such file" in refusal()
    path.write_bytes(b"")
    assert "empty" in refusal()
    path.write_bytes(b"hello, this is no image at all" * 40)
    assert "not a DICOM file nor" in refusal()
    make_dataset(RAMP12).save_as(path, enforce_file_format=True)
    path.write_bytes(path.read_bytes()[:-100])
    assert "decoded" in refusal()
    dataset = make_dataset(RAMP12)
    del dataset.PixelData
    dataset.save_as(path, enforce_file_format=True)
    assert "holds no image" in refusal()
    make_dataset(RAMP12, Rows=65535, Columns=65535).save_as(path, enforce_file_format=True)
    assert "beyond the limit" in refusal()
    make_dataset(RAMP12, NumberOfFrames=2).save_as(path, enforce_file_format=True)
    assert "2 frames; a radiograph is one image; save one frame as a file of its own" in refusal()


def test_frames_that_cannot_be_counted_are_refused_but_an_empty_count_is_one() -> None:
    """pydicom's badVR.dcm says 1A and holds 15: its first frame was shown as if it were the image."""
    dataset = make_dataset(RAMP12)
    dataset.NumberOfFrames = None
    assert read_radiograph(dataset).size_hw == (64, 64)
    with pytest.raises(DicomError, match="an impossible NumberOfFrames"):
        read_radiograph(get_testdata_file("badVR.dcm", download=False))


WINDOWED = {"WindowCenter": 2048, "WindowWidth": 4096}


def windowed(values: np.ndarray, center: float, width: float) -> np.ndarray:
    """PS3.3 C.11.2.1.2.1, in 8 bits."""
    return np.clip((values - (center - 0.5)) / (width - 1) + 0.5, 0, 1) * 255


def assert_shows(radiograph: Radiograph, levels: np.ndarray, *warnings: str) -> None:
    assert np.abs(radiograph.pixels - levels).max() <= 0.5 + 1e-6
    assert radiograph.warnings == warnings


@pytest.mark.parametrize(("stated", "needed"), [(16, 12), (16, 8), (12, 8), (10, 8)])
def test_a_lut_that_states_the_bits_of_its_words_is_shown_by_those_of_its_entries(stated: int, needed: int) -> None:
    """Agfa's: descriptor 16, entries up to 4095, shown nearly black."""
    entries = np.rint((2**needed - 1) * np.sqrt(np.arange(4096) / 4095)).astype(np.uint16)
    dataset = make_dataset(RAMP12, VOILUTSequence=Sequence([lut_item(0, entries, stated)]))
    warning = f"VOI LUT 1 of 1 states {stated} bits, its entries need {needed}, which were used"
    assert_shows(read_radiograph(dataset), entries[RAMP12] / (2**needed - 1) * 255, warning)


def test_a_lut_that_leaves_out_the_upper_half_is_dark_as_it_says() -> None:
    lut = lut_item(0, np.arange(4096) // 2, 12)
    assert_shows(read_radiograph(make_dataset(RAMP12, VOILUTSequence=Sequence([lut]))), RAMP12 // 2 / 4095 * 255)


def test_values_below_the_high_bit() -> None:
    shifted = make_dataset((RAMP12 << 4 | 5).astype(np.uint16), HighBit=15, **WINDOWED)
    assert_shows(read_radiograph(shifted), windowed(RAMP12, 2048, 4096))
    signed = (RAMP12.astype(np.int32) - 2048 << 3).astype(np.int16)
    dataset = make_dataset(signed, HighBit=14, WindowCenter=0, WindowWidth=4096)
    assert_shows(read_radiograph(dataset), windowed(RAMP12.astype(int) - 2048, 0, 4096))


@pytest.mark.parametrize("sequence", [[Dataset()], [lut_item(0, np.array([]), 12)]])
def test_a_modality_lut_without_entries_leaves_the_rescale(sequence: list[Dataset]) -> None:
    rescale = {"RescaleSlope": 1, "RescaleIntercept": -1024, "WindowCenter": 1024, "WindowWidth": 4096}
    dataset = make_dataset(RAMP12, ModalityLUTSequence=Sequence(sequence), **rescale)
    warning = "the Modality LUT is unreadable and was left out"
    assert_shows(read_radiograph(dataset), windowed(RAMP12.astype(int) - 1024, 1024, 4096), warning)


@pytest.mark.parametrize("bits", [8, 16])
def test_a_palette_has_the_files_byte_order_and_its_entries_bits(bits: int) -> None:
    """pydicom reads big-endian palettes as little-endian ones: black."""
    pixels = (RAMP12 // 16).astype(np.uint8)
    for order in "<>":
        dataset = make_dataset(pixels, bits_stored=8, photometric="PALETTE COLOR")
        dataset.set_original_encoding(False, order == "<")
        if order == ">":
            dataset.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
            dataset["PixelData"].VR = "OB"
        for colour in ("Red", "Green", "Blue"):
            dataset.add_new(f"{colour}PaletteColorLookupTableDescriptor", "US", [256, 0, 16])
            entries = (np.arange(256) << bits - 8).astype(f"{order}u2")
            dataset.add_new(f"{colour}PaletteColorLookupTableData", "OW", entries.tobytes())
        warning = "the palette states 16 bits, its entries need 8, which were used"
        white = 255 if bits == 8 else 65535 / 256
        levels = pixels * 255.0 / white
        assert_shows(read_radiograph(dataset), levels, *([warning] if bits == 8 else []))


@pytest.mark.parametrize(("order", "vr"), [("<", "OW"), (">", "OW"), (">", "OB")])
def test_lut_entries_of_8_bits_packed_in_words(order: str, vr: str) -> None:
    entries = np.linspace(0, 255, 4096).astype(np.uint8)
    words = np.frombuffer(entries.tobytes(), np.uint16)
    data = words.byteswap().tobytes() if (order, vr) == (">", "OW") else words.tobytes()
    item = lut_item(0, RAMP12.ravel(), 8)
    item.add_new("LUTData", vr, data)
    dataset = make_dataset(RAMP12, VOILUTSequence=Sequence([item]))
    dataset.set_original_encoding(False, order == "<")
    if order == ">":
        dataset.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
        dataset.PixelData = RAMP12.astype(">u2").tobytes()
    assert_shows(read_radiograph(dataset), entries[RAMP12])


def test_a_descriptor_that_counts_more_entries_than_there_are() -> None:
    """The words of the table were taken for bytes."""
    item = lut_item(0, RAMP12.ravel()[:-1], 12)
    item.LUTDescriptor = [4096, 0, 12]
    shown = read_radiograph(make_dataset(RAMP12, VOILUTSequence=Sequence([item])))
    assert_shows(shown, RAMP12.clip(0, 4094) / 4095 * 255)


def test_a_first_value_written_as_ss_for_unsigned_values() -> None:
    pixels = RAMP12 + 61440
    item = lut_item(0, RAMP12.ravel(), 12)
    item.add_new("LUTDescriptor", "SS", [4096, -4096, 12])
    dataset = make_dataset(pixels, bits_stored=16, VOILUTSequence=Sequence([item]))
    assert_shows(read_radiograph(dataset), RAMP12 / 4095 * 255)


def test_a_first_value_written_as_us_for_signed_values() -> None:
    pixels = (RAMP12.astype(int) - 4096).astype(np.int16)
    dataset = make_dataset(pixels, bits_stored=16, VOILUTSequence=Sequence([lut_item(61440, RAMP12.ravel(), 12)]))
    assert_shows(read_radiograph(dataset), RAMP12 / 4095 * 255)


@pytest.mark.parametrize("kind", ["12.1", "12.2", "12.3"])
def test_angiography_is_shown_without_its_modality_lut(kind: str) -> None:
    lut = lut_item(0, (np.arange(4096) ** 2 // 4096).astype(np.uint16), 12)
    for attributes in ({"ModalityLUTSequence": Sequence([lut])}, {"RescaleSlope": 2, "RescaleIntercept": -100}):
        dataset = make_dataset(RAMP12, SOPClassUID=f"1.2.840.10008.5.1.4.1.1.{kind}", **WINDOWED, **attributes)
        assert_shows(read_radiograph(dataset), windowed(RAMP12, 2048, 4096))


def functional_group(**sequences: dict[str, Any]) -> Dataset:
    group = Dataset()
    for keyword, attributes in sequences.items():
        item = Dataset()
        for each, value in attributes.items():
            setattr(item, each, value)
        setattr(group, keyword, Sequence([item]))
    return group


def test_functional_groups_of_enhanced_objects() -> None:
    shared = functional_group(
        FrameVOILUTSequence={"WindowCenter": 5, "WindowWidth": 10},
        PixelValueTransformationSequence={"RescaleSlope": 2, "RescaleIntercept": -100, "RescaleType": "US"},
        PixelMeasuresSequence={"PixelSpacing": [0.3, 0.3]},
    )
    frames = [functional_group(FrameVOILUTSequence={"WindowCenter": 1000 + k, "WindowWidth": 1500}) for k in range(2)]
    two = make_dataset(np.stack([RAMP12, RAMP12]).reshape(128, 64), Rows=64, NumberOfFrames=2)
    two.SharedFunctionalGroupsSequence = Sequence([shared])
    two.PerFrameFunctionalGroupsSequence = Sequence(frames)
    for frame in (0, 1):
        radiograph = read_radiograph(two, frame=frame)
        assert_shows(radiograph, windowed(RAMP12.astype(int) * 2 - 100, 1000 + frame, 1500))
        assert radiograph.pixel_spacing == (0.3, 0.3)
    assert "WindowCenter" not in two
    one = make_dataset(RAMP12, NumberOfFrames=1, SharedFunctionalGroupsSequence=Sequence([shared]))
    assert_shows(read_radiograph(one), windowed(RAMP12.astype(int) * 2 - 100, 5, 10))


@pytest.mark.parametrize("spelling", ["monochrome1", " MONOCHROME1", "Monochrome1 "])
def test_code_strings_in_small_letters_and_between_blanks(spelling: str) -> None:
    dataset = make_dataset(RAMP12, photometric=spelling, **WINDOWED)
    radiograph = read_radiograph(dataset)
    assert_shows(radiograph, 255 - windowed(RAMP12, 2048, 4096))
    assert radiograph.photometric == "MONOCHROME1"
    assert radiograph.is_grey
    inverse = make_dataset(RAMP12, PresentationLUTShape="inverse", **WINDOWED)
    assert_shows(read_radiograph(inverse), 255 - windowed(RAMP12, 2048, 4096))


def test_colour_without_planar_configuration() -> None:
    pixels = np.repeat((RAMP12 // 16).astype(np.uint8)[..., None], 3, axis=2)
    dataset = make_dataset(pixels, bits_stored=8, photometric="RGB", SamplesPerPixel=3)
    assert_shows(
        read_radiograph(dataset),
        pixels[..., 0],
        "Planar Configuration is missing; the samples of a pixel were taken to stand together",
    )


@pytest.mark.parametrize(("samples", "stated", "taken"), [(3, "MONOCHROME2", "RGB"), (1, "YBR_FULL", "MONOCHROME2")])
def test_a_colour_space_that_contradicts_the_samples(samples: int, stated: str, taken: str) -> None:
    """The page crashed on three samples of MONOCHROME2."""
    pixels = np.repeat((RAMP12 // 16).astype(np.uint8)[..., None], samples, axis=2)
    dataset = make_dataset(pixels, bits_stored=8, photometric=stated, SamplesPerPixel=samples, PlanarConfiguration=0)
    dataset.WindowCenter, dataset.WindowWidth = 128, 256
    radiograph, viewable = read_viewable(content_of(dataset), "x.dcm")
    warning = f"Photometric Interpretation {stated} contradicts Samples per Pixel; taken as {taken}"
    assert_shows(radiograph, pixels[..., 0], warning)
    np.testing.assert_array_equal(viewable.render(), radiograph.pixels)


def test_empty_pixel_data() -> None:
    with pytest.raises(DicomError, match=r"the dataset: holds no image; its Pixel Data is empty"):
        read_radiograph(make_dataset(RAMP12, PixelData=b""))


def content_of(dataset: Dataset) -> bytes:
    buffer = BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def meta_end(content: bytes) -> int:
    return 144 + struct.unpack_from("<I", content, 140)[0]


@pytest.mark.parametrize("how", ["file in a file", "meta after meta", "meta among the elements"])
def test_a_second_file_meta_tells_the_encoding(how: str) -> None:
    """An archive that puts its own file meta before what it received."""
    plain = make_dataset(RAMP12, **WINDOWED)
    outer = content_of(plain)
    plain.compress(RLELossless)
    inner = content_of(plain)
    header = outer[: meta_end(outer)]
    place = inner.index(b"\x28\x00\x02\x00US")
    content = {
        "file in a file": header + inner,
        "meta after meta": header + inner[132:],
        "meta among the elements": header
        + inner[meta_end(inner) : place]
        + inner[132 : meta_end(inner)]
        + inner[place:],
    }[how]
    radiograph = read_radiograph(content)
    assert_shows(radiograph, windowed(RAMP12, 2048, 4096))
    assert radiograph.transfer_syntax == "RLE Lossless"


def test_unknown_sequences_of_big_endian_files(tmp_path: Any) -> None:
    """Little-endian whatever the file is (PS3.5 6.2.2): pydicom refuses the file with an OSError."""
    dataset = make_dataset(RAMP12, **WINDOWED)
    dataset.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    dataset.PixelData = RAMP12.astype(">u2").tobytes()
    buffer = BytesIO()
    dcmwrite(buffer, dataset, implicit_vr=False, little_endian=False, enforce_file_format=True)
    content = buffer.getvalue()
    place = content.index(b"\0\x28\0\x02US")
    inner = struct.pack("<HHI4s", 0x0011, 0x0010, 4, b"ABCD")
    item = struct.pack("<HHI", 0xFFFE, 0xE000, len(inner)) + inner
    sequence = (
        struct.pack(">HH2s2xI", 0x0009, 0x1010, b"UN", 0xFFFFFFFF) + item + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    )
    radiograph = read_radiograph(content[:place] + sequence + content[place:])
    assert_shows(radiograph, windowed(RAMP12, 2048, 4096))


def test_a_deflated_dataset_is_measured_whatever_length_its_file_meta_states() -> None:
    dataset = make_dataset(np.zeros((640, 640), np.uint16))
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    content = bytearray(content_of(dataset))
    content[140:144] = bytes(4)
    assert read_radiograph(bytes(content)).size_hw == (640, 640)
    with pytest.raises(DicomError, match="unpacks to more than"):
        parse_dataset(bytes(content), "a.dcm", max_inflated_bytes=1 << 16)


def test_the_header_keeps_neither_pixels_nor_the_file_in_memory() -> None:
    dataset = dcmread(get_testdata_file("CT_small.dcm"))
    kept = weakref.ref(dataset)
    radiograph = read_radiograph(dataset)
    identity = str(dataset.PatientName), dataset.StudyInstanceUID, dataset.OtherPatientIDsSequence[0].PatientID
    del dataset
    gc.collect()
    assert kept() is None
    header = radiograph.header
    assert header is not None
    assert "PixelData" not in header
    assert (str(header.PatientName), header.StudyInstanceUID, header.OtherPatientIDsSequence[0].PatientID) == identity
    assert len(pickle.dumps(header)) < 20_000
    assert str(header.PatientName) not in repr(radiograph)


def test_a_compressed_image_that_the_files_end_cuts(tmp_path):
    """Before, it "held no image", though it is one: pydicom drops the cut element."""
    dataset = dcmread(get_testdata_file("MR_small_RLE.dcm"))
    dataset.save_as(tmp_path / "whole.dcm")
    content = (tmp_path / "whole.dcm").read_bytes()
    (tmp_path / "cut.dcm").write_bytes(content[: len(content) - 2000])
    with pytest.raises(DicomError, match="it is MR Image Storage, and its pixel data are missing or cut off"):
        read_radiograph(tmp_path / "cut.dcm")
