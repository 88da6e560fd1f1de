"""Radiographs at a reduced size: where it may be used, what it gives, and that nothing else changes."""

from __future__ import annotations

import cv2
import imagecodecs
import numpy as np
import pytest
from conftest import write_jpeg2000, write_radiograph
from pydicom import Dataset, dcmread
from pydicom.encaps import encapsulate, get_frame
from pydicom.uid import JPEG2000Lossless

from cxr_mmdet.dicom.codecs import decode_frame
from cxr_mmdet.dicom.radiograph import read_radiograph
from cxr_mmdet.dicom.reduced import decode_reduced, halvings, mean_reduced
from cxr_mmdet.errors import DicomError
from cxr_mmdet.preparation.images import read_to_size, shrink

SMOOTH = (np.sin(np.add.outer(np.arange(301) / 40, np.arange(202) / 30)) + 1) / 2


@pytest.fixture
def coded(tmp_path):
    """Return a function that writes SMOOTH as lossless JPEG 2000 of so many bits."""

    def write(bits: int, *, signed: bool = False, **attributes) -> Dataset:
        pixels = np.rint(SMOOTH * (2**bits - 1)).astype(np.uint8 if bits == 8 else np.uint16)
        if signed:
            pixels = (pixels.astype(np.int32) - 2 ** (bits - 1)).astype(np.int16)
        frame = imagecodecs.jpeg2k_encode(pixels, level=0, codecformat="J2K", reversible=True, bitspersample=bits)
        dataset = dcmread(write_radiograph(tmp_path / "x.dcm", pixels))
        dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = bits, bits - 1, int(signed)
        dataset.WindowCenter, dataset.WindowWidth = 0 if signed else 2 ** (bits - 1), 2**bits
        dataset.file_meta.TransferSyntaxUID = JPEG2000Lossless
        dataset.PixelData = encapsulate([frame])
        dataset["PixelData"].is_undefined_length = True
        for keyword, value in attributes.items():
            setattr(dataset, keyword, value)
        dataset.save_as(tmp_path / "x.dcm")
        return dcmread(tmp_path / "x.dcm")

    return write


@pytest.mark.parametrize(
    ("size_hw", "edge", "expected"),
    [
        ((3000, 2500), 1024, 1),
        ((3000, 2048), 1024, 1),
        ((3000, 2047), 1024, 0),
        ((9000, 4096), 1024, 2),
        ((1, 1), 1, 0),
    ],
)
def test_how_often_an_image_can_be_halved(size_hw, edge, expected):
    assert halvings(size_hw, edge) == expected


@pytest.mark.parametrize(
    ("bits", "signed"), [(8, False), (12, False), (15, False), (16, False), (12, True), (16, True)]
)
def test_values_are_stored_values_of_the_smaller_image(coded, bits, signed):
    dataset = coded(bits, signed=signed)
    full, _ = decode_frame(dataset, JPEG2000Lossless, 0)
    half = decode_reduced(dataset, JPEG2000Lossless, 0, 1)
    assert half is not None
    assert (half.shape, half.dtype) == ((151, 101), full.dtype)
    # A smooth image, interpolated where a shrunken one has its pixels, is that one; the border is mirrored.
    shrunken = cv2.resize(full.astype(np.float32), (101, 151), interpolation=cv2.INTER_AREA)
    difference = np.abs(half - shrunken)[:-2]
    assert difference[:, :-2].max() <= 2**bits * 0.001 + 2
    assert difference.max() <= 2**bits * 0.02


def test_size_and_place_stay_the_originals(coded, tmp_path):
    coded(12)
    exact, expected = read_to_size(tmp_path / "x.dcm", 100)
    quick, pixels = read_to_size(tmp_path / "x.dcm", 100, reduced_jpeg2000=True)
    assert (quick.size_hw, quick.pixels.shape) == ((301, 202), (151, 101))
    assert (exact.size_hw, exact.pixels.shape) == ((301, 202), (301, 202))
    assert pixels.shape == expected.shape == (149, 100)
    difference = np.abs(pixels.astype(int) - expected)
    assert difference.max() <= 4  # at the border, beyond which samples are repeated
    assert difference.mean() < 0.3
    assert quick.windowing == exact.windowing == "window 1 of 1 (LINEAR)"


@pytest.mark.parametrize(
    ("attributes", "edge"),
    [
        ({}, 102),  # half would be 101
        ({"BitsStored": 11, "HighBit": 10}, 50),  # the codestream says 12
        ({"ImagerPixelSpacing": [0.1, 0.2]}, 50),
        ({"PixelPaddingValue": 0}, 50),  # would be blended into the image
    ],
)
def test_where_it_may_not_be_used_all_is_decoded(coded, attributes, edge):
    dataset = coded(12)
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    plain, asked = read_radiograph(dataset), read_radiograph(dataset, min_short_edge=edge, jpeg2000_only=True)
    np.testing.assert_array_equal(asked.pixels, plain.pixels)


def test_damage_is_refused_in_the_same_words(coded):
    dataset = coded(12)
    dataset.PixelData = dataset.PixelData[: len(dataset.PixelData) // 2]
    messages = []
    for edge in (None, 50):
        with pytest.raises(Exception, match="the dataset: ") as caught:
            read_radiograph(dataset, min_short_edge=edge)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]


@pytest.mark.parametrize("times", [1, 2, 3])
def test_nothing_moves(times):
    """A disc in the middle stays there, however small the image gets."""
    rows, columns = np.mgrid[:256, :256] - 127.5
    disc = (np.hypot(rows, columns) < 60).astype(np.uint8) * 200
    dataset = Dataset()
    dataset.Rows, dataset.Columns, dataset.SamplesPerPixel = 256, 256, 1
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.PixelRepresentation = 0
    dataset.PixelData = encapsulate([imagecodecs.jpeg2k_encode(disc, level=0, codecformat="J2K", reversible=True)])
    small = decode_reduced(dataset, JPEG2000Lossless, 0, times)
    assert small is not None
    weights = small.astype(float)
    middle = [(weights.sum(axis=axis) @ np.arange(len(small))) / weights.sum() for axis in (0, 1)]
    assert middle == pytest.approx([(len(small) - 1) / 2] * 2, abs=0.02)


def test_more_halvings_than_the_codestream_has_resolutions(coded):
    """RG1_J2KR.dcm has two resolutions; asked for a quarter, it was decoded in full."""
    dataset = coded(8)  # imagecodecs writes 5 resolutions, the least 1/16
    smallest = decode_reduced(dataset, JPEG2000Lossless, 0, 30)
    assert smallest is not None
    assert smallest.shape == (-(-301 // 16), -(-202 // 16))


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"irreversible": True, "quality_mode": "rates", "quality_layers": [10]},
        {"tile_size": (128, 128)},
        {"tile_size": (100, 90)},  # the tiles' sides are odd once halved
        {"progression": "RPCL"},
        {"num_resolutions": 2},  # asked for a quarter, it gives half
    ],
    ids=str,
)
def test_every_kind_of_stream_shows_the_same_image(tmp_path, options, photometric):
    pixels = np.rint(SMOOTH[:300] * 255).astype(np.uint8)
    path = write_jpeg2000(tmp_path / "x.dcm", pixels, PhotometricInterpretation=photometric, **options)
    exact, expected = read_to_size(path, 50)
    quick, found = read_to_size(path, 50, reduced_jpeg2000=True)
    assert exact.pixels.shape == (300, 202)
    assert quick.pixels.shape == ((150, 101) if options.get("num_resolutions") == 2 else (75, 51))
    assert np.abs(found.astype(int) - expected)[1:-1, 1:-1].max() <= 4


def test_a_cut_stream_whose_small_sizes_are_whole_is_refused(tmp_path):
    """By resolution, half of the bytes hold every size but the largest."""
    path = write_jpeg2000(tmp_path / "x.dcm", np.rint(SMOOTH * 255).astype(np.uint8), progression="RLCP")
    dataset = dcmread(path)
    frame = get_frame(dataset.PixelData, 0, number_of_frames=1)
    dataset.PixelData = encapsulate([frame[: len(frame) // 2]])
    with pytest.raises(DicomError, match="cut off"):
        read_radiograph(dataset, min_short_edge=50)


@pytest.mark.parametrize("dtype", [np.uint16, np.int16])
@pytest.mark.parametrize(
    ("size_hw", "times", "blocks"), [((12, 20), 1, (2, 2)), ((12, 20), 3, (4, 4)), ((12, 7), 2, (4, 1))]
)
def test_means_fill_the_image(dtype, size_hw, times, blocks):
    values = np.random.default_rng(0).integers(-900, 4096, size_hw).astype(np.int64) + (
        900 if dtype is np.uint16 else 0
    )
    means = values.reshape(size_hw[0] // blocks[0], blocks[0], size_hw[1] // blocks[1], blocks[1]).mean(axis=(1, 3))
    found = mean_reduced(values.astype(dtype), times)
    assert found.dtype == dtype
    np.testing.assert_allclose(found, means, rtol=0, atol=0.51)


@pytest.mark.parametrize(
    "values", [np.zeros((8, 8), np.uint8), np.zeros((8, 8), np.int32), np.zeros((7, 9), np.uint16)]
)
def test_what_has_no_means_stays_as_it_is(values):
    assert mean_reduced(values, 1) is values


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_uncompressed_values_are_averaged_before_the_window(tmp_path, photometric):
    stored = np.rint(SMOOTH[:300] * 65535).astype(np.uint16)
    path = write_radiograph(tmp_path / "x.dcm", stored, PhotometricInterpretation=photometric)
    full, small = read_radiograph(path), read_radiograph(path, min_short_edge=90)
    assert (small.size_hw, small.pixels.shape) == ((300, 202), (150, 101))
    assert small.windowing == full.windowing
    shrunken = [shrink(each.pixels, 90, size_hw=each.size_hw).astype(int) for each in (full, small)]
    assert np.abs(shrunken[0] - shrunken[1]).max() <= 2


def test_eight_bits_in_sixteen_are_read_in_full(tmp_path):
    """Their means were rounded, by up to 5 grey levels in this window; those of 8 bits allocated never were."""
    stored = np.rint(SMOOTH[:300] * 255).astype(np.uint16)
    path = write_radiograph(tmp_path / "x.dcm", stored, BitsStored=8, HighBit=7, WindowCenter=128, WindowWidth=25)
    full, small = read_radiograph(path), read_radiograph(path, min_short_edge=90)
    np.testing.assert_array_equal(small.pixels, full.pixels)


def _table(entries: list[int]) -> Dataset:
    """Return an item of a look-up table whose inputs are 16 bits, 256 of them to an entry."""
    item = Dataset()
    item.LUTDescriptor, item.LUTData = [0, 0, 16], np.repeat(entries, 65536 // len(entries)).astype(np.uint16).tobytes()
    item["LUTData"].VR = "OW"
    return item


RISING, FOLDED = [0, 20000, 65535, 65535], [0, 65535, 20000, 65535]


@pytest.mark.parametrize(
    ("attributes", "options"),
    [
        ({"VOILUTSequence": [_table(FOLDED)]}, {"min_short_edge": 90}),
        ({"ModalityLUTSequence": [_table(FOLDED)]}, {"min_short_edge": 90}),
        ({}, {"min_short_edge": 102}),
        ({}, {"min_short_edge": 90, "jpeg2000_only": True}),
        ({"PixelPaddingValue": 0}, {"min_short_edge": 90}),
        ({"ImagerPixelSpacing": [0.1, 0.2]}, {"min_short_edge": 90}),
    ],
)
def test_where_no_means_may_be_taken_every_pixel_is_read(tmp_path, attributes, options):
    path = write_radiograph(tmp_path / "x.dcm", np.rint(SMOOTH[:300] * 65535).astype(np.uint16), **attributes)
    np.testing.assert_array_equal(read_radiograph(path, **options).pixels, read_radiograph(path).pixels)


@pytest.mark.parametrize("entries", [RISING, RISING[::-1]])
def test_means_go_through_a_look_up_table_that_does_not_turn_back(tmp_path, entries):
    stored = np.rint(SMOOTH[:300] * 65535).astype(np.uint16)
    path = write_radiograph(tmp_path / "x.dcm", stored, VOILUTSequence=[_table(entries)])
    assert read_radiograph(path, min_short_edge=90).pixels.shape == (150, 101)


def test_preparation_reads_every_pixel_of_what_is_not_jpeg_2000(tmp_path):
    path = write_radiograph(tmp_path / "x.dcm", np.rint(SMOOTH[:300] * 65535).astype(np.uint16))
    expected, found = (read_to_size(path, 90, reduced_jpeg2000=asked)[1] for asked in (False, True))
    np.testing.assert_array_equal(found, expected)
