"""PNG, JPEG and TIFF radiographs: grey values as stored, and refused where damaged."""

from __future__ import annotations

import struct
from io import BytesIO
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest
from PIL import Image

from cxr_mmdet.dicom.radiograph import read_radiograph
from cxr_mmdet.errors import DicomError

if TYPE_CHECKING:
    from pathlib import Path

GREY8 = (np.add.outer(np.arange(50) * 3, np.arange(70)) % 256).astype(np.uint8)
GREY16 = np.arange(50 * 70, dtype=np.uint16).reshape(50, 70) * 10


def encode(suffix: str, image: np.ndarray) -> bytes:
    return cv2.imencode(suffix, image)[1].tobytes()


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_8_bit_images_are_as_stored(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(encode(suffix, GREY8))
    radiograph = read_radiograph(path)
    np.testing.assert_array_equal(radiograph.pixels, GREY8)
    assert (radiograph.windowing, radiograph.size_hw, radiograph.patient_id) == ("as stored", (50, 70), None)


def test_jpeg_is_opencvs() -> None:
    content = encode(".jpg", GREY8)
    expected = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_GRAYSCALE)
    assert np.abs(read_radiograph(content).pixels.astype(int) - expected).max() <= 1


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_16_bit_images_are_shown_by_percentiles(suffix: str) -> None:
    radiograph = read_radiograph(encode(suffix, GREY16))
    assert radiograph.windowing == "percentiles 0.5-99.5: no window"
    low, high = GREY16.ravel()[17], GREY16.ravel()[3482]  # 3500 values, each once: ranks 17.5 and 3482.5
    expected = np.clip((GREY16.astype(float) - low) / (high - low), 0, 1) * 255
    assert np.abs(radiograph.pixels - expected).max() <= 0.5 + 1e-9


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_a_tiff_whose_zero_is_white_is_inverted(dtype: type) -> None:
    """Pillow inverts those of 8 bits, and left others to be shown as their negatives."""
    file = BytesIO()
    Image.fromarray(np.flipud(GREY8).astype(dtype)).save(file, "TIFF")
    black_zero, white_zero = (struct.pack("<HHIHH", 262, 3, 1, value, 0) for value in (1, 0))
    assert file.getvalue().count(black_zero) == 1
    shown = read_radiograph(file.getvalue()).pixels
    negative = read_radiograph(file.getvalue().replace(black_zero, white_zero)).pixels
    assert np.abs(negative.astype(int) - (255 - shown)).max() <= 1


def test_16_bits_on_request() -> None:
    wide = read_radiograph(encode(".png", GREY16), bits=16).pixels
    assert wide.dtype == np.uint16
    assert (wide.min(), wide.max(), len(np.unique(wide))) == (0, 65535, 3466)
    np.testing.assert_array_equal(read_radiograph(encode(".png", GREY8), bits=16).pixels, GREY8 * 257.0)


def test_colour_becomes_luma() -> None:
    colour = np.dstack([GREY8, GREY8[::-1], GREY8[:, ::-1]])
    expected = cv2.cvtColor(colour, cv2.COLOR_BGR2GRAY)
    np.testing.assert_array_equal(read_radiograph(encode(".png", colour)).pixels, expected)
    palette = BytesIO()
    Image.fromarray(colour[..., ::-1]).quantize(64).save(palette, "PNG")
    assert read_radiograph(palette.getvalue()).pixels.shape == (50, 70)
    black_and_white = BytesIO()
    Image.fromarray(GREY8 > 100).save(black_and_white, "PNG")
    assert set(np.unique(read_radiograph(black_and_white.getvalue()).pixels)) == {0, 255}


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif"])
@pytest.mark.parametrize("keep", [0.1, 0.5, 0.95])
def test_cut_images_are_refused(suffix: str, keep: float) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (64, 64), np.uint8)  # hard to compress: every cut takes pixels
    content = encode(suffix, noise)
    with pytest.raises(DicomError, match="damaged"):
        read_radiograph(content[: int(len(content) * keep)], name="upload.bin")


def test_too_large_and_several_pages_are_refused() -> None:
    with pytest.raises(DicomError, match=r"70 x 50 pixels is beyond the limit of 3,000"):
        read_radiograph(encode(".png", GREY8), max_pixels=3000)
    pages = BytesIO()
    Image.fromarray(GREY8).save(pages, "TIFF", save_all=True, append_images=[Image.fromarray(GREY8)])
    with pytest.raises(DicomError, match="2 pages; a radiograph is one image; save one page as a file"):
        read_radiograph(pages.getvalue())


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_stand_upright_as_viewers_show_them(kind: str, orientation: int) -> None:
    """A telephone's JPEG on its side was read as it is stored, whichever way its table meant it."""
    stored = Image.fromarray(np.add.outer(np.arange(24) * 8, np.arange(40)).astype(np.uint8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = BytesIO()
    stored.save(file, kind, exif=exif, **({"quality": 100} if kind == "JPEG" else {}))
    radiograph = read_radiograph(file.getvalue())
    expected = (
        stored
        if orientation == 1
        else stored.transpose(
            {
                2: Image.Transpose.FLIP_LEFT_RIGHT,
                3: Image.Transpose.ROTATE_180,
                4: Image.Transpose.FLIP_TOP_BOTTOM,
                5: Image.Transpose.TRANSPOSE,
                6: Image.Transpose.ROTATE_270,
                7: Image.Transpose.TRANSVERSE,
                8: Image.Transpose.ROTATE_90,
            }[orientation]
        )
    )
    np.testing.assert_allclose(radiograph.pixels.astype(int), np.asarray(expected).astype(int), atol=3)
    assert radiograph.exif_orientation == orientation
    assert any("EXIF orientation" in warning for warning in radiograph.warnings) is (orientation != 1)
