"""Windows from full depth: the file's own view bit by bit, other windows as reading the file with them."""

from __future__ import annotations

from io import BytesIO

import cv2
import numpy as np
import pydicom
import pytest
from pydicom.uid import JPEG2000Lossless

from cxr_mmdet.dicom.radiograph import read_radiograph
from cxr_mmdet.dicom.viewing import Window, read_viewable
from cxr_mmdet.errors import DicomError
from cxr_mmdet.phantom.cases import plan_case
from cxr_mmdet.phantom.dicom_file import Encoding, write_dicom
from cxr_mmdet.phantom.render import render_phantom

ENCODINGS = {
    "plain": Encoding(bits_stored=12),
    "eight bit": Encoding(bits_stored=8),
    "monochrome1": Encoding(bits_stored=14, photometric="MONOCHROME1", used=(0.1, 0.9)),
    "rescaled": Encoding(bits_stored=12, slope=2.0, intercept=-1024.0, used=(0.05, 0.9)),
    "no window": Encoding(bits_stored=10, window="none"),
    "sigmoid": Encoding(bits_stored=12, window="sigmoid"),
    "compressed": Encoding(bits_stored=12, syntax=JPEG2000Lossless),
}


@pytest.fixture
def phantom_file(tmp_path):
    def write(encoding: Encoding) -> bytes:
        phantom = render_phantom(plan_case(3, 1, abnormal_share=1, labels=["Cardiomegaly"]), size=128)
        write_dicom(tmp_path / "a.dicom", phantom, encoding)
        return (tmp_path / "a.dicom").read_bytes()

    return write


def with_window(content: bytes, center, width) -> bytes:
    dataset = pydicom.dcmread(BytesIO(content))
    dataset.WindowCenter, dataset.WindowWidth = center, width
    buffer = BytesIO()
    dataset.save_as(buffer)
    return buffer.getvalue()


@pytest.mark.parametrize("name", ENCODINGS)
def test_its_own_view_is_what_reading_gives(phantom_file, name):
    content = phantom_file(ENCODINGS[name])
    radiograph, viewable = read_viewable(content, "a")
    np.testing.assert_array_equal(radiograph.pixels, read_radiograph(content).pixels)
    np.testing.assert_array_equal(viewable.render(), radiograph.pixels)
    np.testing.assert_array_equal(viewable.render(invert=True), 255 - radiograph.pixels)


@pytest.mark.parametrize("name", ["plain", "eight bit", "monochrome1", "rescaled", "sigmoid", "compressed"])
def test_another_window_is_what_a_file_with_it_gives(phantom_file, name):
    content = phantom_file(ENCODINGS[name])
    _, viewable = read_viewable(content, "a")
    low, high = viewable.value_range
    window = Window(round((low + high) / 2 + 3), round((high - low) / 3))
    expected = read_radiograph(with_window(content, window.center, window.width)).pixels
    np.testing.assert_array_equal(viewable.render(window), expected)
    assert (viewable.render(window) != viewable.render()).any()


@pytest.mark.parametrize("name", ["plain", "eight bit", "monochrome1", "rescaled"])
def test_the_first_window_is_the_files_own(phantom_file, name):
    _, viewable = read_viewable(phantom_file(ENCODINGS[name]), "a")
    np.testing.assert_array_equal(viewable.render(viewable.start), viewable.render())


def test_an_impossible_first_window_is_passed_over(phantom_file):
    content = with_window(phantom_file(ENCODINGS["plain"]), [100, 2000], [0, 1500])
    _, viewable = read_viewable(content, "a")
    assert viewable.start == Window(2000, 1500)
    np.testing.assert_array_equal(viewable.render(viewable.start), viewable.render())


def test_without_a_window_the_first_one_looks_alike(phantom_file):
    _, viewable = read_viewable(phantom_file(ENCODINGS["no window"]), "a")
    difference = viewable.render(viewable.start).astype(int) - viewable.render()
    assert np.abs(difference).max() <= 3


def test_a_part_is_a_part(phantom_file):
    _, viewable = read_viewable(phantom_file(ENCODINGS["monochrome1"]), "a")
    part = (slice(10, 40), slice(5, 25))
    window = Window(8000, 2500)
    np.testing.assert_array_equal(viewable.render(window, part=part), viewable.render(window)[part])


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_images_have_windows_too(dtype):
    values = np.arange(64 * 48, dtype=np.float64).reshape(64, 48)
    image = (values / values.max() * np.iinfo(dtype).max).astype(dtype)
    content = cv2.imencode(".png", image)[1].tobytes()
    radiograph, viewable = read_viewable(content, "a.png")
    np.testing.assert_array_equal(viewable.render(), radiograph.pixels)
    narrow = viewable.render(Window(32768, 6553))
    assert (np.diff(narrow.ravel().astype(int)) >= 0).all()
    assert (narrow == 0).mean() == pytest.approx(0.45, abs=0.01)
    assert (narrow == 255).mean() == pytest.approx(0.45, abs=0.01)


def test_a_window_narrower_than_a_value_is_a_threshold(phantom_file):
    _, viewable = read_viewable(phantom_file(ENCODINGS["plain"]), "a")
    assert set(np.unique(viewable.render(Window(2000, 0)))) == {0, 255}


def test_what_is_no_radiograph():
    with pytest.raises(DicomError, match=r"page\.dcm: not a DICOM file"):
        read_viewable(b"<!doctype html><html></html>", "page.dcm")
