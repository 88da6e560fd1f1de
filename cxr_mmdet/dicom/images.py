"""Radiographs as PNG, JPEG, TIFF or MetaImage: the same strictness as for DICOM, without its display attributes."""

from __future__ import annotations

import re
import tempfile
import warnings
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
import pydicom
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from cxr_mmdet.errors import DicomError

_MAGIC = {b"\x89PNG\r\n\x1a\n": "PNG", b"\xff\xd8\xff": "JPEG", b"II*\0": "TIFF", b"MM\0*": "TIFF"}
_MAGIC |= dict.fromkeys((b"ObjectType", b"Comment", b"NDims"), "MetaImage")
_METAIMAGE_BYTES = 4096
"""Limit on the header of a MetaImage."""

_GREY_MODES = frozenset({"L", "I", "F", "I;16", "I;16L", "I;16B", "I;16N"})


def image_format(content: bytes) -> str | None:
    """Return PNG, JPEG, TIFF or MetaImage by the first bytes, else None; the file's name is not asked."""
    return next((name for magic, name in _MAGIC.items() if content.startswith(magic)), None)


def _plain_mode(mode: str) -> str:
    return "L" if mode == "1" else "RGB"


def _is_white_zero(image: Image.Image) -> bool:
    """Return whether 0 is white in a TIFF (TIFF 6.0, section 3); Pillow inverts such images of up to 8 bits alone."""
    return getattr(image, "tag_v2", {}).get(ExifTags.Base.PhotometricInterpretation) == 0


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 to 8 (CIPA DC-008 4.6.4 A); 1, as it is, where it is not stated or damaged."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            stated = image.getexif().get(ExifTags.Base.Orientation, 1)
    # The image may be whole where its EXIF is not.
    except Exception:
        return 1
    return stated if stated in range(1, 9) else 1


def read_image(content: bytes, name: str, *, max_pixels: int, folder: Path | None = None) -> tuple[np.ndarray, int]:
    """Return (H, W) grey values, uint8, or 16-bit integers, or float, and the EXIF orientation they were stored with.

    The values are turned upright, as viewers and annotation tools show the image; colour becomes luminance.

    ``folder`` is where the file lies: the pixels of a MetaImage may stand in another file there.

    Pillow reads the others because it refuses a truncated file, where OpenCV fills the rest with grey or black.

    Raises:
        DicomError: damaged, truncated, several pages, or more pixels than ``max_pixels``.
    """
    kind = image_format(content)
    if kind == "MetaImage":
        return _read_metaimage(content, name, max_pixels, folder), 1
    try:
        with Image.open(BytesIO(content), formats=[kind] if kind else None) as image:
            width, height = image.size
            if width * height > max_pixels:
                raise DicomError(f"{name}: {width} x {height} pixels is beyond the limit of {max_pixels:,} pixels")
            pages = getattr(image, "n_frames", 1)
            if pages > 1:
                raise DicomError(
                    f"{name}: holds {pages} pages; a radiograph is one image; save one page as a file of its own"
                )
            orientation = _orientation(image)
            upright = image if orientation == 1 else ImageOps.exif_transpose(image)
            values = np.asarray(upright if upright.mode in _GREY_MODES else upright.convert(_plain_mode(upright.mode)))
            if upright.mode in _GREY_MODES - {"L"} and _is_white_zero(image):
                values = -values if values.dtype.kind == "f" else ~values
    except UnidentifiedImageError:
        raise DicomError(f"{name}: damaged {kind} image; its header cannot be read") from None
    except DicomError:
        raise
    # Pillow's readers raise OSError, SyntaxError, ValueError, struct.error... depending on where the damage is.
    except Exception as error:
        raise DicomError(f"{name}: damaged {kind} image ({error})") from None
    return (cv2.cvtColor(values, cv2.COLOR_RGB2GRAY) if values.ndim == 3 else values), orientation


def _metaimage_header(content: bytes, name: str) -> tuple[list[int], str]:
    """Return the sizes along x, y … of a MetaImage and the file of its pixels, LOCAL for its own."""
    head, separator, _ = content[:_METAIMAGE_BYTES].partition(b"ElementDataFile")
    fields = dict(re.findall(r"^\s*(\w+)\s*=\s*(.*?)\s*$", head.decode("latin-1"), re.MULTILINE))
    place = re.match(rb"\s*=\s*([^\r\n]*)", content[len(head) + len(separator) :])
    try:
        sizes = [int(value) for value in fields["DimSize"].split()]
    except (KeyError, ValueError):
        sizes = []
    if place is None or len(sizes) < 2 or min(sizes) < 1:
        raise DicomError(f"{name}: damaged MetaImage; expected DimSize and ElementDataFile in its header")
    return sizes, place[1].decode("latin-1").strip()


def _read_metaimage(content: bytes, name: str, max_pixels: int, folder: Path | None) -> np.ndarray:
    """Return the grey values of a MetaImage (.mha, or .mhd with its pixels beside it)."""
    sizes, place = _metaimage_header(content, name)
    if np.prod(sizes, dtype=np.float64) > max_pixels:
        raise DicomError(f"{name}: {' x '.join(map(str, sizes))} pixels is beyond the limit of {max_pixels:,} pixels")
    if any(size > 1 for size in sizes[2:]):
        raise DicomError(f"{name}: holds {sizes[2]} slices; a radiograph is one image")
    # A file from outside must not name others of this machine.
    if place != "LOCAL" and (folder is None or Path(place).name != place):
        raise DicomError(f"{name}: its pixels are in {place!r}; expected them in the file (.mha) or in one beside it")
    try:
        import SimpleITK
    except ImportError:
        raise DicomError(f'{name}: MetaImage needs SimpleITK; run pip install "cxr-mmdet[formats]"') from None
    SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / "image.mha"
        path.write_bytes(content)
        if place != "LOCAL" and folder is not None:
            (Path(temporary) / place).symlink_to((folder / place).resolve())
        try:
            values = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path), imageIO="MetaImageIO"))
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1]
            raise DicomError(f"{name}: damaged MetaImage ({reason})") from None
    values = values.reshape(sizes[1], sizes[0], -1)
    if values.shape[2] not in (1, 3):
        raise DicomError(f"{name}: has {values.shape[2]} values per pixel, expected grey or colour")
    if values.shape[2] == 3:
        return cv2.cvtColor(np.ascontiguousarray(values.astype(np.uint8)), cv2.COLOR_RGB2GRAY)
    grey = values[..., 0]
    return grey if grey.dtype in (np.uint8, np.uint16, np.int16) else grey.astype(np.float64)


def image_size_hw(path: Path) -> tuple[int, int]:
    """Return height and width of a DICOM file or upright image by its header; no pixel is decoded.

    Raises:
        DicomError: the header cannot be read.
    """
    try:
        with path.open("rb") as file:
            kind = image_format(file.read(16))
        if kind == "MetaImage":
            with path.open("rb") as file:
                width, height, *_ = _metaimage_header(file.read(_METAIMAGE_BYTES), str(path))[0]
            return height, width
        if kind is None:
            header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["Rows", "Columns"], force=True)
            return int(header.Rows), int(header.Columns)
        with Image.open(path, formats=[kind]) as image:
            width, height = image.size
            return (width, height) if _orientation(image) >= 5 else (height, width)
    # Readers raise whatever the damage leads to.
    except Exception as error:
        raise DicomError(f"{path}: its size cannot be read ({error})") from None
