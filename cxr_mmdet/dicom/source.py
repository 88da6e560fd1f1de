"""From bytes to a DICOM dataset whose picture may be decoded, or a refusal that says why."""

from __future__ import annotations

import struct
import zlib
from io import BytesIO
from typing import TYPE_CHECKING

import pydicom
from pydicom import DataElement, Dataset, uid
from pydicom.datadict import dictionary_VR
from pydicom.errors import InvalidDicomError

from cxr_mmdet.dicom.attributes import numbers, one_line, text_of, value_of
from cxr_mmdet.errors import DicomError

if TYPE_CHECKING:
    from pathlib import Path

MAX_FILE_BYTES = 2 << 30
"""Of the file, and of what a deflated one unpacks to."""

MAX_PIXELS = 150_000_000
"""Five times the largest detector's picture; a header that asks for more is damaged or hostile."""

PIXEL_KEYWORDS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")

_DEFAULTS = {
    "SamplesPerPixel": 1,
    "PhotometricInterpretation": "MONOCHROME2",
    "PixelRepresentation": 0,
}
"""What files that predate DICOM 3 leave out (ACR-NEMA knew no other kind of picture)."""


def read_bytes(path: Path) -> bytes:
    """Return a file's content.

    Raises:
        DicomError: there is no such file, it cannot be read, it is empty, or larger than any radiograph.
    """
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise DicomError(f"{path}: the file is larger than {MAX_FILE_BYTES >> 20} MiB, no radiograph is")
        content = path.read_bytes()
    except FileNotFoundError:
        raise DicomError(f"{path}: no such file") from None
    except OSError as error:
        raise DicomError(f"{path}: cannot be read ({error.strerror})") from None
    return content


def is_dicom(content: bytes) -> bool:
    """Return whether ``content`` has the 128-byte preamble and prefix of a DICOM file (PS3.10 7.1)."""
    return content[128:132] == b"DICM"


def parse_dataset(content: bytes, name: str) -> Dataset:
    """Return the dataset in ``content``, also where preamble and file meta are missing.

    Raises:
        DicomError: not DICOM, damaged, or it inflates beyond the limit.
    """
    if not content:
        raise DicomError(f"{name}: the file is empty")
    if is_dicom(content):
        _check_inflated_size(content, name)
    try:
        dataset = pydicom.dcmread(BytesIO(content), force=not is_dicom(content))
        known = any(keyword in dataset for keyword in ("SOPClassUID", "Rows", *PIXEL_KEYWORDS))
    except InvalidDicomError:
        raise DicomError(f"{name}: not a DICOM file, nor a PNG, JPEG or TIFF picture") from None
    # The parser raises whatever the damage makes happen: struct.error, EOFError, KeyError, OverflowError, zlib.error...
    except Exception as error:
        what = "damaged DICOM file" if is_dicom(content) else "not a DICOM file, nor a PNG, JPEG or TIFF picture"
        raise DicomError(f"{name}: {what} ({type(error).__name__})") from None
    if not known and not is_dicom(content):
        raise DicomError(f"{name}: not a DICOM file, nor a PNG, JPEG or TIFF picture")
    return dataset


def picture_dataset(dataset: Dataset, name: str, *, max_pixels: int = MAX_PIXELS) -> Dataset:
    """Return ``dataset``, or a copy completed by defaults, once its header describes a picture that may be decoded.

    Raises:
        DicomError: no pixel data, no or an impossible size, or more pixels than ``max_pixels``.
    """
    if not any(keyword in dataset for keyword in PIXEL_KEYWORDS):
        raise DicomError(f"{name}: holds no picture, it is {_kind(dataset) or 'cut off or an unknown kind of object'}")
    dataset = _completed(dataset)
    rows, columns = (_positive_int(dataset, keyword, name) for keyword in ("Rows", "Columns"))
    if rows * columns > max_pixels:
        raise DicomError(f"{name}: {columns} x {rows} pixels is beyond the limit of {max_pixels:,} pixels")
    for keyword in ("BitsAllocated", "BitsStored"):
        _positive_int(dataset, keyword, name)
    if "NumberOfFrames" in dataset and not numbers(dataset, "NumberOfFrames"):
        raise DicomError(f"{name}: the header gives an impossible NumberOfFrames")
    samples = _positive_int(dataset, "SamplesPerPixel", name)
    if samples not in (1, 3):
        raise DicomError(f"{name}: has {samples} samples a pixel; a picture has 1 or 3")
    return dataset


def transfer_syntax(dataset: Dataset) -> uid.UID:
    """Return how the pixel data are encoded; without file meta, the plain encoding the parser recognised."""
    meta = getattr(dataset, "file_meta", None)
    stated = "" if meta is None else text_of(meta, "TransferSyntaxUID")
    if stated:
        return uid.UID(stated)
    is_implicit, is_little = getattr(dataset, "original_encoding", (None, None))
    if is_little is False:
        return uid.ExplicitVRBigEndian
    return uid.ExplicitVRLittleEndian if is_implicit is False else uid.ImplicitVRLittleEndian


def _completed(dataset: Dataset) -> Dataset:
    """Return ``dataset`` with defaults for what is missing or unreadable; the caller's own stays as it is."""
    defaults = {**_DEFAULTS, "BitsStored": value_of(dataset, "BitsAllocated")}
    fixes = {keyword: value for keyword, value in defaults.items() if value_of(dataset, keyword) is None}
    if "NumberOfFrames" in dataset and not dataset.get_item("NumberOfFrames").value:
        fixes["NumberOfFrames"] = 1
    if not fixes:
        return dataset
    completed = Dataset()  # copy.copy() and Dataset.copy() would share the elements
    completed.update(dataset)
    completed.set_original_encoding(*dataset.original_encoding)
    if hasattr(dataset, "file_meta"):
        completed.file_meta = dataset.file_meta
    for keyword, value in fixes.items():
        # Setting the attribute would first convert the unreadable value that it replaces.
        completed[keyword] = DataElement(keyword, dictionary_VR(keyword), value)
    return completed


def _kind(dataset: Dataset) -> str:
    """Return the name of the file's SOP class; a DICOMDIR states it in its file meta only."""
    meta = getattr(dataset, "file_meta", Dataset())
    stated = text_of(dataset, "SOPClassUID") or text_of(meta, "MediaStorageSOPClassUID")
    return one_line(uid.UID(stated).name)


def _positive_int(dataset: Dataset, keyword: str, name: str) -> int:
    value = value_of(dataset, keyword)
    if isinstance(value, int) and value > 0:
        return value
    raise DicomError(f"{name}: the header gives {'no' if value is None else 'an impossible'} {keyword}")


def _check_inflated_size(content: bytes, name: str) -> None:
    """Refuse a deflated dataset (PS3.5 A.5) that unpacks to more than any radiograph, before pydicom unpacks it."""
    try:
        (meta_length,) = struct.unpack_from("<I", content, 140)
    except struct.error:
        raise DicomError(f"{name}: damaged DICOM file, it ends inside the file meta information") from None
    meta_end = 144 + meta_length
    if uid.DeflatedExplicitVRLittleEndian.encode() not in content[132:meta_end]:
        return
    inflate = zlib.decompressobj(-zlib.MAX_WBITS)
    total, rest = 0, content[meta_end:]
    while rest and total <= MAX_FILE_BYTES:
        try:
            total += len(inflate.decompress(rest, 1 << 24))
        except zlib.error:
            raise DicomError(f"{name}: damaged DICOM file, its deflated part cannot be unpacked") from None
        rest = inflate.unconsumed_tail
    if total > MAX_FILE_BYTES:
        raise DicomError(f"{name}: unpacks to more than {MAX_FILE_BYTES >> 20} MiB, no radiograph does")
