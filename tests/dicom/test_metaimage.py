"""MetaImage files, written by hand: the same grey levels as a PNG of the same values."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest

from cxr_mmdet.annotations.sources import ImageFinder
from cxr_mmdet.dicom.images import image_size_hw
from cxr_mmdet.dicom.radiograph import read_radiograph
from cxr_mmdet.errors import DicomError

if TYPE_CHECKING:
    from pathlib import Path

pytest.importorskip("SimpleITK", reason="MetaImage needs SimpleITK (extra formats)")

VALUES = (np.arange(30 * 20).reshape(30, 20) * 90).astype(np.uint16)


def metaimage(
    data: bytes, size: str = "20 30 1", place: str = "LOCAL", element: str = "USHORT", more: str = ""
) -> bytes:
    header = f"ObjectType = Image\nNDims = {len(size.split())}\nBinaryData = True\nBinaryDataByteOrderMSB = False\n"
    return f"{header}{more}DimSize = {size}\nElementType = MET_{element}\nElementDataFile = {place}\n".encode() + data


@pytest.mark.parametrize(
    ("content", "values"),
    [
        (metaimage(VALUES.tobytes()), VALUES),
        (metaimage(VALUES.tobytes(), size="20 30"), VALUES),
        (metaimage(VALUES.astype("<f4").tobytes(), element="FLOAT"), VALUES),
        (metaimage((VALUES % 251).astype(np.uint8).tobytes(), element="UCHAR"), (VALUES % 251).astype(np.uint8)),
        (
            metaimage(
                packed := zlib.compress(VALUES.tobytes()),
                more=f"CompressedData = True\nCompressedDataSize = {len(packed)}\n",
            ),
            VALUES,
        ),
    ],
    ids=["volume of one slice", "flat", "float", "8 bit", "compressed"],
)
def test_it_shows_what_a_png_of_the_same_values_shows(tmp_path: Path, content: bytes, values: np.ndarray) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), values)
    (tmp_path / "b.mha").write_bytes(content)
    shown = read_radiograph(tmp_path / "b.mha")
    np.testing.assert_array_equal(shown.pixels, read_radiograph(tmp_path / "a.png").pixels)
    np.testing.assert_array_equal(read_radiograph(content).pixels, shown.pixels)
    assert (shown.size_hw, shown.transfer_syntax) == ((30, 20), "MetaImage")
    assert image_size_hw(tmp_path / "b.mha") == (30, 20)
    assert ImageFinder(tmp_path).find("b.mha") == tmp_path / "b.mha"


def test_raw_values_may_lie_beside_it_and_nowhere_else(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "a.raw").write_bytes(VALUES.tobytes())
    (folder / "a.mhd").write_bytes(metaimage(b"", place="a.raw"))
    (folder / "b.mha").write_bytes(metaimage(VALUES.tobytes()))
    np.testing.assert_array_equal(read_radiograph(folder / "a.mhd").pixels, read_radiograph(folder / "b.mha").pixels)
    for place in (str(folder / "a.raw"), "../set/a.raw"):
        (folder / "c.mhd").write_bytes(metaimage(b"", place=place))
        with pytest.raises(DicomError, match=r"expected them in the file .* or in one beside it"):
            read_radiograph(folder / "c.mhd")
    with pytest.raises(DicomError, match=r"its pixels are in 'a\.raw'"):
        read_radiograph((folder / "a.mhd").read_bytes())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (metaimage(VALUES.tobytes()[:-9]), "damaged MetaImage"),
        (metaimage(VALUES.tobytes(), size="20 0 1"), "expected DimSize and ElementDataFile"),
        (b"ObjectType = Image\n", "expected DimSize and ElementDataFile"),
        (metaimage(VALUES.tobytes(), size="20 15 2"), "holds 2 slices; a radiograph is one image"),
        (metaimage(b"", size="99999 99999 1"), "beyond the limit of"),
        (metaimage(b"", place="LIST"), "its pixels are in 'LIST'"),
    ],
)
def test_what_is_damaged_or_no_radiograph_is_refused(content: bytes, message: str) -> None:
    with pytest.raises(DicomError, match=message):
        read_radiograph(content)
