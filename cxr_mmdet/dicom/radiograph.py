"""Reading of radiographs: the only way from a file to pixels, whatever the scanner wrote (PS3.3 C.7.6.3, C.11)."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from pydicom import Dataset
from pydicom.pixels import apply_color_lut

from cxr_mmdet.dicom.attributes import code_of, frame_count, numbers, one_line, text_of
from cxr_mmdet.dicom.codecs import decode_frame, syntax_name
from cxr_mmdet.dicom.images import image_format, read_image
from cxr_mmdet.dicom.luts import read_lut
from cxr_mmdet.dicom.reduced import decode_reduced, halvings, mean_reduced
from cxr_mmdet.dicom.source import (
    MAX_PIXELS,
    header_of,
    image_dataset,
    parse_dataset,
    transfer_syntax,
    with_functional_groups,
)
from cxr_mmdet.dicom.windowing import (
    Rendering,
    has_monotone_luts,
    look_up,
    render_by_percentiles,
    render_grey,
    tabulate,
)
from cxr_mmdet.errors import DicomError
from cxr_mmdet.structures.radiograph_files import is_dicom, read_bytes

if TYPE_CHECKING:
    from typing import Literal

SQUARE_TOLERANCE = 0.01
"""Spacings that differ by less come from rounding or calibration."""

MAX_ASPECT = 5.0

_LUMA = np.array([0.299, 0.587, 0.114])
"""ITU-R BT.601."""


@dataclass(frozen=True)
class Radiograph:
    """A radiograph ready to show, and where it comes from; what identifies the patient stays out of the repr.

    Attributes:
        pixels: (H, W) uint8, or uint16 where asked for; C-contiguous, 0 is black. Of ``size_hw``, unless decoded at
            a reduced size.
        size_hw: rows and columns as stored.
        pixel_spacing: millimetres between rows and between columns, at the patient where known, else at the detector.
        pixel_aspect: height of a pixel over its width, 1 where the file says nothing credible.
        photometric: the file's Photometric Interpretation, or the image format's colour.
        windowing: how values became levels, such as ``window 1 of 2 (LINEAR)``.
        transfer_syntax: the encoding's name.
        warnings: what was odd about the file, one sentence each.
        burned_in_annotation: whether the file says that text is burnt into the pixels; None when it says nothing.
        patient_id: Patient ID, None when absent or empty.
        exif_orientation: what an image was turned by to stand upright, 1 for none (CIPA DC-008 4.6.4 A).
        header: the file's attributes without pixel data, as :func:`cxr_mmdet.dicom.source.header_of` bounds them; None
            for an image.
    """

    pixels: np.ndarray = field(repr=False)
    size_hw: tuple[int, int]
    pixel_spacing: tuple[float, float] | None
    pixel_aspect: float
    photometric: str
    windowing: str
    transfer_syntax: str
    warnings: tuple[str, ...] = ()
    burned_in_annotation: bool | None = None
    patient_id: str | None = field(default=None, repr=False)
    exif_orientation: int = 1
    header: Dataset | None = field(default=None, repr=False, compare=False)

    @property
    def is_grey(self) -> bool:
        """Whether the file holds one value per pixel and says how to window it, rather than colours."""
        return self.photometric.startswith("MONOCHROME")


def read_radiograph(
    source: str | Path | bytes | Dataset,
    *,
    window: int | str = 0,
    frame: int | None = None,
    bits: Literal[8, 16] = 8,
    max_pixels: int = MAX_PIXELS,
    min_short_edge: int | None = None,
    jpeg2000_only: bool = False,
    name: str | None = None,
) -> Radiograph:
    """Return the radiograph in ``source`` as its file asks it to be shown.

    The order is the standard's: Modality LUT or rescale, VOI LUT or window, inversion, once (PS3.3 C.11, PS3.4 N.2).
    Without a usable window the range between robust percentiles is shown, and ``windowing`` says so.

    Args:
        source: a DICOM, PNG, JPEG, TIFF or MetaImage file or its content, or a dataset that holds the pixel data.
        window: which of the file's views, counted from 0 with VOI LUTs before windows, or its explanation.
        frame: which frame of a multi-frame image, counted from 0.
        bits: of a grey level in ``pixels``.
        max_pixels: rows times columns beyond which nothing is decoded.
        min_short_edge: grey DICOM with square pixels and no padding value may be read at half, a quarter … of its size,
            faster and not to the same pixels, as long as the shorter side keeps as many.
        jpeg2000_only: read at such a size only what is JPEG 2000, where it saves most.
        name: how messages call the source; its path by default.

    Raises:
        DicomError: the source is not a radiograph we can show; the message names it and the reason.
    """
    stored = decode_radiograph(
        source,
        frame=frame,
        max_pixels=max_pixels,
        min_short_edge=min_short_edge,
        jpeg2000_only=jpeg2000_only,
        name=name,
    )
    return stored.render(window=window, bits=bits)


@dataclass(frozen=True, eq=False)
class StoredRadiograph:
    """The stored values of a radiograph, decoded once, to be rendered in any window and at any depth.

    Attributes:
        values: (H, W), or (H, W, 3) for colour.
        dataset: the DICOM dataset that describes them, completed by defaults; None for an image.
    """

    values: np.ndarray
    dataset: Dataset | None
    _name: str
    _photometric: str
    _warnings: tuple[str, ...]
    _facts: dict[str, Any]

    def render(self, *, window: int | str = 0, bits: Literal[8, 16] = 8) -> Radiograph:
        """Return the radiograph as its file asks it to be shown; the arguments are those of :func:`read_radiograph`.

        Raises:
            DicomError: there is no such window, or the display attributes are unusable.
        """
        try:
            rendering = (
                _render_image(self.values, bits)
                if self.dataset is None
                else _render(self.values, self._photometric, self.dataset, window, bits)
            )
        except ValueError as error:
            raise DicomError(f"{self._name}: {error}") from None
        constant = () if np.ptp(rendering.levels) else ("the image is constant",)
        return Radiograph(
            pixels=rendering.levels,
            windowing=rendering.how,
            warnings=(*rendering.warnings, *constant, *self._warnings),
            **self._facts,
        )


def decode_radiograph(
    source: str | Path | bytes | Dataset,
    *,
    frame: int | None = None,
    max_pixels: int = MAX_PIXELS,
    min_short_edge: int | None = None,
    jpeg2000_only: bool = False,
    name: str | None = None,
) -> StoredRadiograph:
    """Parse and decode ``source``; arguments and errors are those of :func:`read_radiograph`."""
    if isinstance(source, Dataset):
        return _decode_dataset(source, name or "the dataset", frame, max_pixels, min_short_edge, jpeg2000_only)
    if isinstance(source, bytes):
        content, name, folder = source, name or "the uploaded file", None
    else:
        content, name, folder = read_bytes(Path(source)), name or str(source), Path(source).parent
    kind = None if is_dicom(content) else image_format(content)
    if kind is not None:
        return _decode_image(content, name, kind, max_pixels, folder)
    return _decode_dataset(parse_dataset(content, name), name, frame, max_pixels, min_short_edge, jpeg2000_only)


def _decode_dataset(
    original: Dataset,
    name: str,
    frame: int | None,
    max_pixels: int,
    min_short_edge: int | None,
    jpeg2000_only: bool,
) -> StoredRadiograph:
    warnings: list[str] = []
    dataset = image_dataset(original, name, max_pixels=max_pixels, warnings=warnings)
    syntax = transfer_syntax(dataset)
    index = _frame_index(dataset, frame, name)
    dataset = with_functional_groups(dataset, index)
    aspect = pixel_aspect(dataset, warnings)
    size_hw = (int(dataset.Rows), int(dataset.Columns))
    # Low-passes and means would blend the padding value, which may lie far outside the image's values, into the image;
    # and a look-up table that turns back shows a mean unlike all that it is a mean of.
    may_reduce = min_short_edge and aspect == 1 and "PixelPaddingValue" not in dataset and has_monotone_luts(dataset)
    times = halvings(size_hw, min_short_edge) if min_short_edge and may_reduce else 0
    reduced = decode_reduced(dataset, syntax, index, times)
    stated = str(dataset.PhotometricInterpretation)
    try:
        values, photometric = decode_frame(dataset, syntax, index, warnings) if reduced is None else (reduced, stated)
    except ValueError as error:
        raise DicomError(f"{name}: {error}") from None
    if reduced is None and photometric.startswith("MONOCHROME") and not jpeg2000_only and dataset.BitsStored > 8:
        values = mean_reduced(values, times)
    facts = {
        "size_hw": size_hw,
        "pixel_spacing": _pixel_spacing(dataset),
        "pixel_aspect": aspect,
        "photometric": stated,
        "transfer_syntax": syntax_name(syntax),
        "burned_in_annotation": {"YES": True, "NO": False}.get(code_of(dataset, "BurnedInAnnotation")),
        "patient_id": text_of(dataset, "PatientID") or None,
        "header": header_of(original),
    }
    return StoredRadiograph(values, dataset, name, photometric, tuple(warnings), facts)


def _decode_image(
    content: bytes, name: str, kind: str, max_pixels: int, folder: Path | None = None
) -> StoredRadiograph:
    values, orientation = read_image(content, name, max_pixels=max_pixels, folder=folder)
    height, width = values.shape
    facts = {
        "size_hw": (height, width),
        "pixel_spacing": None,
        "pixel_aspect": 1.0,
        "photometric": "grey",
        "transfer_syntax": kind,
        "exif_orientation": orientation,
    }
    turned = () if orientation == 1 else (f"turned upright by EXIF orientation {orientation}",)
    return StoredRadiograph(values, None, name, "grey", turned, facts)


def _render_image(values: np.ndarray, bits: int) -> Rendering:
    if values.dtype == np.uint8:
        return Rendering(_to_bits(np.ascontiguousarray(values), 8, bits), "as stored", ())
    return render_by_percentiles(values, bits=bits)


def _render(stored: np.ndarray, photometric: str, dataset: Dataset, window: int | str, bits: int) -> Rendering:
    if stored.ndim == 2 and photometric != "PALETTE COLOR":
        return render_grey(stored, dataset, window=window, bits=bits)
    if photometric == "PALETTE COLOR":
        return _render_palette(stored, dataset, bits)
    return Rendering(_to_bits(_luminance(stored), int(dataset.BitsStored), bits), "colour as stored", ())


def _render_palette(stored: np.ndarray, dataset: Dataset, bits: int) -> Rendering:
    """Return the luma of a palette's colours, worked out for each value that can occur (PS3.3 C.7.9)."""
    table = tabulate(stored, None, [])
    warnings: tuple[str, ...] = ()
    colours = ("Red", "Green", "Blue")
    found = [
        read_lut(dataset, dataset, f"{colour}PaletteColorLookupTableDescriptor", f"{colour}PaletteColorLookupTableData")
        for colour in colours
    ]
    luts = [lut for lut in found if lut is not None]
    if len(luts) == len(colours):
        rgb = np.stack([lut.look_up(table.values) for lut in luts], axis=-1)
        depth = max(lut.bits for lut in luts)
        if all(lut.overstates for lut in luts):
            warnings = (f"the palette states {luts[0].stated_bits} bits, its entries need {depth}, which were used",)
    else:
        try:
            segmented = apply_color_lut(table.values.astype(np.int64), dataset)
        # A palette that is missing, short or of odd types fails anywhere inside pydicom.
        except Exception as error:
            raise ValueError(f"its colour palette is unusable ({one_line(str(error))})") from None
        rgb, depth = segmented[..., :3].astype(np.float64), segmented.dtype.itemsize * 8
    levels = _to_bits(rgb @ _LUMA, depth, bits)
    return Rendering(look_up(levels, table.index), "palette", warnings)


def _luminance(rgb: np.ndarray) -> np.ndarray:
    """Return the ITU-R BT.601 luma of (H, W, 3) RGB."""
    if rgb.dtype in (np.uint8, np.uint16):
        return cv2.cvtColor(np.ascontiguousarray(rgb), cv2.COLOR_RGB2GRAY)
    return rgb @ _LUMA


def _to_bits(grey: np.ndarray, have: int, want: int) -> np.ndarray:
    """Scale grey levels of ``have`` bits so that full scale stays full scale."""
    dtype = np.uint8 if want == 8 else np.uint16
    if have == want and grey.dtype == dtype:
        return grey
    return np.rint(grey * (np.iinfo(dtype).max / (2**have - 1))).clip(0, np.iinfo(dtype).max).astype(dtype)


def _frame_index(dataset: Dataset, frame: int | None, name: str) -> int:
    count = frame_count(dataset)
    if frame is None and count > 1:
        raise DicomError(
            f"{name}: holds {count} frames; a radiograph is one image; save one frame as a file of its own"
        )
    if frame is not None and not 0 <= frame < count:
        raise DicomError(f"{name}: frame {frame} does not exist, the file holds {count}, counted from 0")
    return frame or 0


def _pixel_spacing(dataset: Dataset) -> tuple[float, float] | None:
    """Return row and column spacing in mm: Pixel Spacing may be calibrated, Imager Pixel Spacing is the detector's."""
    for keyword in ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing"):
        spacing = numbers(dataset, keyword)
        if len(spacing) == 2 and min(spacing) > 0:
            return spacing[0], spacing[1]
    return None


def pixel_aspect(dataset: Dataset, warnings: list[str]) -> float:
    """Return the height of a pixel over its width: Pixel Aspect Ratio (PS3.3 C.7.6.3.1.7), else by the spacing."""
    ratio = numbers(dataset, "PixelAspectRatio")
    height, width = ratio if len(ratio) == 2 and min(ratio) > 0 else _pixel_spacing(dataset) or (1.0, 1.0)
    aspect = height / width
    if abs(aspect - 1) < SQUARE_TOLERANCE:
        return 1.0
    if not 1 / MAX_ASPECT <= aspect <= MAX_ASPECT:
        warnings.append(f"pixels {aspect:.3g} times as high as wide are not credible and are taken as square")
        return 1.0
    warnings.append(f"pixels are {aspect:.3g} times as high as wide")
    return aspect
