import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from cxr_mmdet.datasets import loading as decoding
from cxr_mmdet.datasets.loading import read_grey_image
from cxr_mmdet.errors import DatasetError

GREY = np.random.default_rng(0).integers(0, 256, (40, 30), dtype=np.uint8)


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def header(width: int, height: int) -> bytes:
    """Return signature and IHDR of an 8-bit grey PNG."""
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))


def as_png(image: np.ndarray, *options: int) -> bytes:
    return cv2.imencode(".png", image, options)[1].tobytes()


def by_opencv(path: Path) -> np.ndarray:
    return cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)


@pytest.fixture
def only_kornia(monkeypatch):
    """Fail where OpenCV would decode."""
    monkeypatch.setattr(decoding, "_decode_any", lambda data: pytest.fail("decoded by OpenCV"))


@given(
    image=arrays.arrays(np.uint8, arrays.array_shapes(min_dims=2, max_dims=2, max_side=40)),
    strategy=st.integers(0, 4),
    level=st.integers(0, 9),
)
def test_grey_png_comes_back_to_the_bit(tmp_path_factory, image, strategy, level):
    path = tmp_path_factory.getbasetemp() / "a.png"
    path.write_bytes(as_png(image, cv2.IMWRITE_PNG_COMPRESSION, level, cv2.IMWRITE_PNG_STRATEGY, strategy))
    np.testing.assert_array_equal(read_grey_image(path), image)


def test_what_preparation_writes_takes_the_fast_way(tmp_path, only_kornia):
    from cxr_mmdet.preparation.images import PNG_OPTIONS

    path = tmp_path / "ü.png"
    path.write_bytes(as_png(GREY, *PNG_OPTIONS))
    np.testing.assert_array_equal(read_grey_image(path), GREY)


def test_a_transparent_grey_level_changes_nothing(tmp_path, only_kornia):
    png = as_png(GREY)
    path = tmp_path / "a.png"
    path.write_bytes(png[:33] + chunk(b"tRNS", bytes([0, int(GREY[0, 0])])) + png[33:])
    np.testing.assert_array_equal(read_grey_image(path), GREY)


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("colour.png", lambda path: Image.fromarray(np.dstack([GREY, GREY // 2, GREY // 3])).save(path)),
        ("palette.png", lambda path: Image.fromarray(GREY).convert("P").save(path)),
        ("one_bit.png", lambda path: Image.fromarray(GREY > 100).save(path)),
        ("16_bit.png", lambda path: Image.fromarray(GREY.astype(np.uint16) * 257).save(path)),
        ("grey.jpg", lambda path: Image.fromarray(GREY).save(path)),
        ("grey.tif", lambda path: Image.fromarray(GREY).save(path)),
    ],
)
def test_other_images_are_read_as_opencv_reads_them(tmp_path, name, write):
    path = tmp_path / name
    write(path)
    got = read_grey_image(path)
    assert (got.dtype, got.shape) == (np.uint8, GREY.shape)
    np.testing.assert_array_equal(got, by_opencv(path))


def flipped_bit(png: bytes) -> bytes:
    damaged = bytearray(png)
    damaged[200] ^= 1  # within the pixels
    return bytes(damaged)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"not an image",
        as_png(GREY)[:600],
        flipped_bit(as_png(GREY)),
        header(0, 5) + as_png(GREY)[33:],
        header(2**20, 2**20) + as_png(GREY)[33:],
        header(30, 41) + as_png(GREY)[33:],
        as_png(np.dstack([GREY] * 3))[:100],
    ],
    ids=["empty", "text", "cut", "flipped bit", "no width", "a trillion pixels", "a row too few", "cut colour"],
)
def test_damage_is_one_sentence_that_names_the_file(tmp_path, capfd, data):
    path = tmp_path / "a.png"
    path.write_bytes(data)
    with pytest.raises(DatasetError, match=r"a\.png: not an image that can be decoded \(.+\); prepare it again\.$"):
        read_grey_image(path)
    assert "panicked" not in capfd.readouterr().err


def test_a_missing_file_is_one_sentence(tmp_path):
    with pytest.raises(DatasetError, match=r"gone\.png: cannot be read \(No such file"):
        read_grey_image(tmp_path / "gone.png")
