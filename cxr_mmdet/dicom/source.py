"""From bytes to a DICOM dataset whose image may be decoded, or a refusal that says why."""

from __future__ import annotations

import struct
import warnings
import zlib
from contextlib import contextmanager
from io import BytesIO
from typing import TYPE_CHECKING, Any

import pydicom
from pydicom import DataElement, Dataset, Sequence, uid
from pydicom.datadict import dictionary_description, dictionary_VR, keyword_for_tag
from pydicom.dataelem import RawDataElement
from pydicom.dataset import FileMetaDataset
from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_sequence
from pydicom.multival import MultiValue
from pydicom.valuerep import EXPLICIT_VR_LENGTH_32

from cxr_mmdet.dicom.attributes import code_of, items, numbers, one_line, text_of, value_of
from cxr_mmdet.errors import DicomError
from cxr_mmdet.structures.radiograph_files import HEAD_BYTES, MAX_FILE_BYTES, is_dicom

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

MAX_PIXELS = 150_000_000
"""Limit on the pixels of an image, five times the largest detector's; a header beyond it is damaged or hostile."""

MAX_ATTRIBUTE_BYTES = 256 << 10
"""Size limit of an attribute in a header; twice the largest lookup table."""

MAX_HEADER_BYTES = 2 << 20
"""Size limit of all attributes in a header."""

RADIOGRAPHS = (uid.ComputedRadiographyImageStorage, uid.DigitalXRayImageStorageForPresentation)
"""Raw images (DX For Processing) are not for looking at: neither people nor the model were trained on them."""

PIXEL_KEYWORDS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")

_CURVES_AND_OVERLAYS = frozenset({0x50, 0x60})
_OBJECT_BYTES = 200
_LONGEST_META = 4096
"""Size limit of an element of the file meta information in a header; UIDs and titles need less."""

_UNDEFINED = 0xFFFFFFFF

_FRAME_SEQUENCES = ("FrameVOILUTSequence", "PixelValueTransformationSequence", "PixelMeasuresSequence")
"""Functional groups that plain objects hold at their top (PS3.3 C.7.6.16.2)."""

_DEFAULTS: dict[str, Any] = {
    "SamplesPerPixel": 1,
    "PhotometricInterpretation": "MONOCHROME2",
    "PixelRepresentation": 0,
}
"""Defaults for what files that predate DICOM 3 leave out (ACR-NEMA knew no other kind of image)."""


@contextmanager
def quiet_pydicom() -> Iterator[None]:
    """Silence pydicom's warnings on oddities of a file; those that matter are in ``Radiograph.warnings``."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def parse_dataset(content: bytes, name: str, *, max_inflated_bytes: int = MAX_FILE_BYTES) -> Dataset:
    """Return the dataset in ``content``, also where preamble and file meta are missing.

    Args:
        content: of a file.
        name: how messages call it.
        max_inflated_bytes: size beyond which a deflated dataset is refused.

    Raises:
        DicomError: not DICOM, damaged, or it inflates beyond the limit.
    """
    if not content:
        raise DicomError(f"{name}: the file is empty")
    if is_dicom(content):
        try:
            content = _from_inner_preamble(content)
            _check_inflated_size(content, name, max_inflated_bytes)
        except struct.error:
            raise DicomError(f"{name}: damaged DICOM file, it ends inside the file meta information") from None
    try:
        dataset = _inner_meta_applied(_read(content))
        known = any(keyword in dataset for keyword in ("SOPClassUID", "Rows", *PIXEL_KEYWORDS))
    except InvalidDicomError:
        raise DicomError(f"{name}: not a DICOM file nor a PNG, JPEG or TIFF image") from None
    # The parser raises whatever the damage makes happen: struct.error, EOFError, KeyError, OverflowError, zlib.error...
    except Exception as error:
        what = "damaged DICOM file" if is_dicom(content) else "not a DICOM file nor a PNG, JPEG or TIFF image"
        raise DicomError(f"{name}: {what} ({type(error).__name__})") from None
    if not known and not is_dicom(content):
        raise DicomError(f"{name}: not a DICOM file nor a PNG, JPEG or TIFF image")
    return dataset


def _read(content: bytes) -> Dataset:
    try:
        return pydicom.dcmread(BytesIO(content), force=not is_dicom(content))
    # pydicom looks for big-endian items in big-endian files, also where VR UN makes them little-endian.
    except OSError:
        if uid.ExplicitVRBigEndian.encode() not in content[: _meta_end(content)]:
            raise
        return pydicom.dcmread(BytesIO(_without_unknown_sequences(content)))


def _without_unknown_sequences(content: bytes) -> bytes:
    """Return a big-endian file without its sequences of VR UN, which are implicit little-endian (PS3.5 6.2.2 note 4).

    They are private: nothing in them is needed to show the image.
    """
    place = _meta_end(content)
    kept = [content[:place]]
    while place + 8 <= len(content):
        vr, length = struct.unpack_from(">2sH", content, place + 4)
        value = place + 8
        if vr.decode("ascii", "replace") in EXPLICIT_VR_LENGTH_32:
            (length,) = struct.unpack_from(">I", content, value)
            value += 4
        if length == _UNDEFINED and vr == b"UN":
            stream = BytesIO(content)
            stream.seek(value)
            read_sequence(stream, is_implicit_VR=True, is_little_endian=True, bytelength=length, encoding="iso8859")
            place = stream.tell()
            continue
        end = len(content) if length == _UNDEFINED else value + length
        kept.append(content[place:end])
        place = end
    return b"".join(kept)


def _meta_end(content: bytes) -> int:
    """Return where the file meta information ends, element by element: pydicom does not heed the length it states.

    Raises:
        struct.error: the file ends inside it.
    """
    place = HEAD_BYTES
    while content[place : place + 2] == b"\2\0":
        vr, length = struct.unpack_from("<2sH", content, place + 4)
        place += 8
        if not vr.isupper():  # implicit, against PS3.10 7.1
            (length,) = struct.unpack_from("<I", content, place - 4)
        elif vr.decode("ascii", "replace") in EXPLICIT_VR_LENGTH_32:
            (length,) = struct.unpack_from("<I", content, place)
            place += 4
        place += length
    return place


def _from_inner_preamble(content: bytes) -> bytes:
    """Return the file that begins where the file meta information of another one ends: some archives put theirs before.

    The inner one tells how the dataset behind it is encoded.
    """
    start = _meta_end(content)
    return content[start:] if is_dicom(content[start : start + HEAD_BYTES]) else content


def _inner_meta_applied(dataset: Dataset) -> Dataset:
    """Return ``dataset`` with file meta information that stands among its elements moved to where it belongs.

    The one nearer to the pixels tells how they are encoded.
    """
    inner = [tag for tag in dataset.keys() if tag.group == 2]  # noqa: SIM118 -- iterating over it gives elements
    meta = getattr(dataset, "file_meta", None) or FileMetaDataset()
    for tag in inner:
        meta[tag] = dataset[tag]
        del dataset[tag]
    if inner:
        dataset.file_meta = meta
    return dataset


def image_dataset(
    dataset: Dataset, name: str, *, max_pixels: int = MAX_PIXELS, warnings: list[str] | None = None
) -> Dataset:
    """Return ``dataset``, or a copy completed by defaults, once its header describes an image that may be decoded.

    Args:
        dataset: as it was read.
        name: how messages call it.
        max_pixels: rows times columns beyond which it is refused.
        warnings: is given a sentence about what had to be assumed.

    Raises:
        DicomError: no pixel data, no or an impossible size, or more pixels than ``max_pixels``.
    """
    pixel_keywords = [keyword for keyword in PIXEL_KEYWORDS if keyword in dataset]
    if not pixel_keywords:
        kind = _kind(dataset) or "cut off or an unknown kind of object"
        # Of a file whose end cuts compressed pixel data, pydicom gives no pixel data.
        cut = ", and its pixel data are missing or cut off" if kind.endswith("Image Storage") else ""
        raise DicomError(f"{name}: holds no image; it is {kind}{cut}")
    if all(not value_of(dataset, keyword) for keyword in pixel_keywords):
        raise DicomError(f"{name}: holds no image; its {dictionary_description(pixel_keywords[0])} is empty")
    dataset = _completed(dataset, [] if warnings is None else warnings)
    rows, columns = (_positive_int(dataset, keyword, name) for keyword in ("Rows", "Columns"))
    if rows * columns > max_pixels:
        raise DicomError(f"{name}: {columns} x {rows} pixels is beyond the limit of {max_pixels:,} pixels")
    for keyword in ("BitsAllocated", "BitsStored"):
        _positive_int(dataset, keyword, name)
    if "NumberOfFrames" in dataset and not numbers(dataset, "NumberOfFrames"):
        raise DicomError(f"{name}: the header gives an impossible NumberOfFrames")
    samples = _positive_int(dataset, "SamplesPerPixel", name)
    if samples not in (1, 3):
        raise DicomError(f"{name}: has {samples} samples per pixel; an image has 1 or 3")
    return dataset


def with_functional_groups(dataset: Dataset, frame: int) -> Dataset:
    """Return ``dataset`` with what an Enhanced object says of one frame, in the places where plain objects say it.

    The groups of the frame go before those that all frames share (PS3.3 C.7.6.16).
    """
    shared = items(dataset, "SharedFunctionalGroupsSequence")[:1]
    groups = shared + items(dataset, "PerFrameFunctionalGroupsSequence")[frame : frame + 1]
    found = [item for group in groups for keyword in _FRAME_SEQUENCES for item in items(group, keyword)[:1]]
    return _with_elements(dataset, [element for item in found for element in item.values()]) if found else dataset


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


def _completed(dataset: Dataset, warnings: list[str]) -> Dataset:
    """Return ``dataset`` with defaults for what is missing or unreadable; the caller's own stays as it is."""
    defaults = {**_DEFAULTS, "BitsStored": value_of(dataset, "BitsAllocated")}
    if value_of(dataset, "SamplesPerPixel") == 3:
        defaults["PlanarConfiguration"] = 0
    fixes = {keyword: value for keyword, value in defaults.items() if value_of(dataset, keyword) is None}
    if "PlanarConfiguration" in fixes:
        warnings.append("Planar Configuration is missing; the samples of a pixel were taken to stand together")
    photometric = _photometric(dataset, warnings)
    if photometric != value_of(dataset, "PhotometricInterpretation"):
        fixes["PhotometricInterpretation"] = photometric
    if "NumberOfFrames" in dataset and not dataset.get_item("NumberOfFrames", keep_deferred=True).value:
        fixes["NumberOfFrames"] = 1
    if not fixes:
        return dataset
    # Setting an attribute would first convert the unreadable value that it replaces.
    return _with_elements(dataset, [DataElement(key, dictionary_VR(key), value) for key, value in fixes.items()])


def _photometric(dataset: Dataset, warnings: list[str]) -> str:
    """Return Photometric Interpretation, or what the number of samples makes of one that contradicts it."""
    stated = code_of(dataset, "PhotometricInterpretation") or _DEFAULTS["PhotometricInterpretation"]
    is_grey = stated.startswith(("MONOCHROME", "PALETTE"))
    samples = value_of(dataset, "SamplesPerPixel")
    if samples == 3 and is_grey:
        assumed = "RGB"
    elif samples in (1, None) and stated.startswith(("RGB", "YBR")):
        assumed = "MONOCHROME2"
    else:
        return stated
    warnings.append(f"Photometric Interpretation {stated} contradicts Samples per Pixel; taken as {assumed}")
    return assumed


def _with_elements(dataset: Dataset, elements: Iterable[DataElement | RawDataElement]) -> Dataset:
    """Return a copy of ``dataset`` in which ``elements`` replace its own."""
    completed = Dataset()  # copy.copy() and Dataset.copy() would share the elements
    completed.update(dataset)
    completed.set_original_encoding(*dataset.original_encoding)
    if hasattr(dataset, "file_meta"):
        completed.file_meta = dataset.file_meta
    for element in elements:
        completed[element.tag] = element
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


def _check_inflated_size(content: bytes, name: str, limit: int) -> None:
    """Refuse a deflated dataset (PS3.5 A.5) that unpacks to more than any radiograph, before pydicom unpacks it."""
    meta_end = _meta_end(content)
    if uid.DeflatedExplicitVRLittleEndian.encode() not in content[HEAD_BYTES:meta_end]:
        return
    inflate = zlib.decompressobj(-zlib.MAX_WBITS)
    total, rest = 0, content[meta_end:]
    while rest and total <= limit:
        try:
            total += len(inflate.decompress(rest, 1 << 24))
        except zlib.error:
            raise DicomError(f"{name}: damaged DICOM file, its deflated part cannot be unpacked") from None
        rest = inflate.unconsumed_tail
    if total > limit:
        raise DicomError(f"{name}: unpacks to more than {limit >> 20} MiB, no radiograph does")


def header_of(dataset: Dataset) -> Dataset:
    """Return the attributes that reports and captures are made from, in at most ``MAX_HEADER_BYTES``.

    The result is a new dataset, because one that was read keeps its whole file in memory. Private attributes, overlays
    and pixel data are left out, and so are the largest of the others where they exceed a limit; none of those identify
    the patient or the study.
    """
    elements = dict(dataset.items())  # as they are stored: asking for one converts its value, which may be damaged
    sizes = {
        tag: size_in_memory(element)
        for tag, element in elements.items()
        if not tag.is_private
        and tag.group >> 8 not in _CURVES_AND_OVERLAYS
        and keyword_for_tag(tag) not in PIXEL_KEYWORDS
    }
    header, total = Dataset(), 0
    kept = []
    for tag in sorted(sizes, key=lambda tag: (sizes[tag], tag)):
        if sizes[tag] > MAX_ATTRIBUTE_BYTES or total + sizes[tag] > MAX_HEADER_BYTES:
            break
        total += sizes[tag]
        kept.append(tag)
    header.update({tag: elements[tag] for tag in sorted(kept)})
    is_implicit, is_little = dataset.original_encoding
    header.set_original_encoding(is_implicit, is_little, dataset.original_character_set)
    meta = getattr(dataset, "file_meta", None)
    if meta is not None:
        header.file_meta = FileMetaDataset()
        header.file_meta.update(
            {tag: element for tag, element in meta.items() if size_in_memory(element) < _LONGEST_META}
        )
    return header


def size_in_memory(value: Any) -> int:
    """Return the approximate bytes of a dataset or attribute, including items of sequences and Python's own objects."""
    if isinstance(value, (DataElement, RawDataElement)):
        return _OBJECT_BYTES + size_in_memory(value.value)
    if isinstance(value, Dataset):
        return sum(size_in_memory(element) for element in value.values())
    if isinstance(value, (bytes, str)):
        return len(value)
    if isinstance(value, (list, Sequence, MultiValue)):
        return sum(_OBJECT_BYTES + size_in_memory(each) for each in value)
    return _OBJECT_BYTES
