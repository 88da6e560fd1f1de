"""Stored pixel values to display levels: modality LUT, VOI LUT or window, percentiles, inversion (DICOM PS3.3 C.11).

Every step works on the table of values that can occur rather than on the pixels: 65,536 numbers instead of millions,
so float64 arithmetic costs nothing and the image itself is touched once, by a look-up.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np
from pydicom import uid

from cxr_mmdet.dicom.attributes import code_of, items, numbers, strings, text_of
from cxr_mmdet.dicom.luts import read_lut

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pydicom import Dataset

    from cxr_mmdet.dicom.luts import Lut

PERCENTILES = (0.5, 99.5)
"""The range shown when a file says nothing usable: robust against markers and dead pixels."""

FLAT_SHARE = 8 / 255
"""A window that gives the bulk of the pixels fewer grey levels than this shows nothing; it is not used."""

_ANGIOGRAPHY = frozenset(
    {uid.XRayAngiographicImageStorage, uid.XRayRadiofluoroscopicImageStorage, "1.2.840.10008.5.1.4.1.1.12.3"}
)
"""XA, XRF and the retired biplane XA."""

_TABLE_LIMIT = 1 << 22

_LOOK_UP_ROWS = 64
"""numpy widens indices to int64 first; in strips they stay in the cache, twice as fast as at once."""


@dataclass(frozen=True)
class Rendering:
    """A grey image ready to show.

    Attributes:
        levels: (H, W) uint8 or uint16, 0 is black.
        how: which view of the file was used, or why none was.
        warnings: what a reader of the image should know, one sentence each.
    """

    levels: np.ndarray
    how: str
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class GreyView:
    """One of the file's ways to show its values (PS3.3 C.11.2): a VOI LUT or a window.

    Attributes:
        how: for people, such as ``window 1 of 2 (LINEAR)``.
        name: the explanation that the file gives it, or empty.
        shade: maps modality values (float64) to 0 (dark) … 1.
        lut: the VOI LUT, where it is one.
        window: the window's function, center and width, where it is one.
    """

    how: str
    name: str
    shade: Callable[[np.ndarray], np.ndarray]
    lut: Lut | None = None
    window: tuple[str, float, float] | None = None


@dataclass(frozen=True)
class ValueTable:
    """The stored values of an image and where they stand.

    Attributes:
        values: (K,) float64, ascending stored values that may occur.
        counts: (K,) int64, pixels of each value; padding counts as none.
        index: (H, W) integers into ``values``.
    """

    values: np.ndarray
    counts: np.ndarray
    index: np.ndarray


def render_grey(stored: np.ndarray, dataset: Dataset, *, window: int | str = 0, bits: int = 8) -> Rendering:
    """Show stored values as the file asks for it, or by robust percentiles where it asks for nothing usable.

    Args:
        stored: (H, W) values as they come from the codec, any integer or float type.
        dataset: holds the Modality LUT, VOI LUT and Image Pixel attributes.
        window: which of the file's views, counted from 0 with VOI LUTs before windows, or its explanation.
        bits: 8 or 16 bits per grey level.

    Raises:
        ValueError: the file has views, but not the one asked for.
    """
    warnings: list[str] = []
    table = tabulate(stored, padding_range(dataset, is_signed=stored.dtype.kind == "i"), warnings)
    values = modality_values(table.values, dataset, warnings)
    views = _views(dataset, warnings)
    view = _choose(views, window)
    shade = view.shade(values) if view else np.zeros_like(values)
    how = view.how if view else ""
    if view is None or not _shows_something(shade, table.counts):
        if view is not None:
            warnings.append(f"{view.how} shows nothing of the image")
        reason = "no window" if view is None else f"{view.how} is outside the data"
        shade, how = _percentile_shade(values, table.counts)
        how = f"{how}: {reason}"
    if is_inverted(dataset, warnings):
        shade = 1 - shade
    dtype = np.uint8 if bits == 8 else np.uint16
    levels = np.rint(np.clip(shade, 0, 1) * np.iinfo(dtype).max).astype(dtype)
    return Rendering(look_up(levels, table.index), how, tuple(warnings))


def own_view(dataset: Dataset) -> GreyView | None:
    """Return the view that :func:`render_grey` takes by default; None where the file has no usable one."""
    return next(iter(_views(dataset, [])), None)


def render_by_percentiles(stored: np.ndarray, *, bits: int = 8) -> Rendering:
    """Show values that come without any display attributes, such as a 16-bit PNG's."""
    warnings: list[str] = []
    table = tabulate(stored, None, warnings)
    shade, how = _percentile_shade(table.values, table.counts)
    dtype = np.uint8 if bits == 8 else np.uint16
    levels = np.rint(shade * np.iinfo(dtype).max).astype(dtype)
    return Rendering(look_up(levels, table.index), f"{how}: no window", tuple(warnings))


def is_inverted(dataset: Dataset, warnings: list[str]) -> bool:
    """Return whether high values are dark.

    MONOCHROME1 says so (PS3.3 C.7.6.3.1.2), and so does Presentation LUT Shape INVERSE (C.11.6), which must accompany
    it in DX images: two names of one inversion, not two inversions.
    """
    monochrome1 = code_of(dataset, "PhotometricInterpretation") == "MONOCHROME1"
    shape = code_of(dataset, "PresentationLUTShape")
    if monochrome1 and shape == "IDENTITY":
        warnings.append("MONOCHROME1 contradicts Presentation LUT Shape IDENTITY; shown as MONOCHROME1")
    return monochrome1 or shape == "INVERSE"


def padding_range(dataset: Dataset, *, is_signed: bool) -> tuple[float, float] | None:
    """Return the first and last stored value that mean "nothing was measured here" (PS3.3 C.7.5.1.1.2), or None.

    Args:
        dataset: holds the attributes.
        is_signed: whether the stored values are, whatever Pixel Representation says.
    """
    first = numbers(dataset, "PixelPaddingValue")[:1]
    last = numbers(dataset, "PixelPaddingRangeLimit")[:1] or first
    if not first:
        return None
    ends = [_as_stored(value, is_signed=is_signed) for value in (first[0], last[0])]
    return min(ends), max(ends)


def _as_stored(value: float, *, is_signed: bool) -> float:
    """Return ``value`` with the sign of the stored values: writers mix up US and SS."""
    if is_signed and value > 0x7FFF:
        return value - 0x10000
    if not is_signed and value < 0:
        return value + 0x10000
    return value


def tabulate(stored: np.ndarray, padding: tuple[float, float] | None, warnings: list[str]) -> ValueTable:
    """Return the values of an image, of which the padding range counts as none."""
    values, index = _distinct_values(_finite(stored, warnings))
    counts = _histogram(index, len(values))
    if padding is not None:
        inside = (values >= padding[0]) & (values <= padding[1])
        if counts[~inside].any():
            counts = np.where(inside, 0, counts)
        else:
            warnings.append("every pixel has the padding value")
    return ValueTable(values, counts, index)


def _finite(stored: np.ndarray, warnings: list[str]) -> np.ndarray:
    if stored.dtype.kind != "f":
        return stored
    finite = np.isfinite(stored)
    if finite.all():
        return stored
    warnings.append(f"{int((~finite).sum())} pixels are not numbers and are shown as the lowest value")
    return np.where(finite, stored, stored[finite].min() if finite.any() else 0)


def _distinct_values(stored: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the values that may occur, ascending, and (H, W) indices into them."""
    high = stored.max()
    if stored.dtype in (np.uint8, np.uint16):
        return np.arange(int(high) + 1, dtype=np.float64), stored
    if stored.dtype in (np.int8, np.int16):
        # Flipping the sign bit is adding half the range: signed order becomes unsigned order in one cheap pass.
        unsigned = stored.view(f"u{stored.dtype.itemsize}")
        half = 1 << (8 * stored.dtype.itemsize - 1)
        index = np.bitwise_xor(unsigned, unsigned.dtype.type(half))
        return np.arange(-half, int(high) + 1, dtype=np.float64), index
    low = stored.min()
    if stored.dtype.kind in "iub" and int(high) - int(low) < _TABLE_LIMIT:
        return np.arange(int(low), int(high) + 1, dtype=np.float64), (stored - low).astype(np.int32)
    values, flat = np.unique(stored, return_inverse=True)
    return values.astype(np.float64), flat.reshape(stored.shape)


def _histogram(index: np.ndarray, length: int) -> np.ndarray:
    if index.dtype in (np.uint8, np.uint16):
        # OpenCV counts these four times faster than numpy.bincount, which first widens them to int64.
        return cv2.calcHist([index], [0], None, [length], [0, length]).ravel().astype(np.int64)
    return np.bincount(index.ravel(), minlength=length)


def look_up(levels: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Return the (H, W) image of levels (K,) at their index (H, W)."""
    if index.dtype == np.uint8 and levels.dtype == np.uint8:
        full = np.zeros(256, np.uint8)
        full[: len(levels)] = levels
        return cv2.LUT(index, full)
    image = np.empty(index.shape, levels.dtype)
    for start in range(0, len(index), _LOOK_UP_ROWS):
        rows = slice(start, start + _LOOK_UP_ROWS)
        np.take(levels, index[rows], out=image[rows], mode="clip")
    return image


def has_monotone_luts(dataset: Dataset) -> bool:
    """Return whether no Modality or VOI LUT of the file turns back; then means of stored values may be shown."""
    found = [
        read_lut(item, dataset) for name in ("ModalityLUTSequence", "VOILUTSequence") for item in items(dataset, name)
    ]
    return all(lut.is_monotone for lut in found if lut is not None)


def modality_values(values: np.ndarray, dataset: Dataset, warnings: list[str]) -> np.ndarray:
    """Apply the Modality LUT or the rescale slope and intercept (PS3.3 C.11.1)."""
    transformation = modality_transformation(dataset, warnings)
    if isinstance(transformation, tuple):
        slope, intercept = transformation
        return values * slope + intercept
    return transformation.look_up(values)


def modality_transformation(dataset: Dataset, warnings: list[str]) -> Lut | tuple[float, float]:
    """Return the Modality LUT, or the rescale slope and intercept, that are applied for display."""
    # There they lead from what is shown back to X-ray intensities (PS3.3 C.8.7.1.1.2); dcmtk leaves them out, too.
    if text_of(dataset, "SOPClassUID") in _ANGIOGRAPHY:
        return 1.0, 0.0
    for item in items(dataset, "ModalityLUTSequence")[:1]:
        lut = read_lut(item, dataset)
        if lut is not None:
            return lut
        warnings.append("the Modality LUT is unreadable and was left out")
    slope = numbers(dataset, "RescaleSlope")[:1] or [1.0]
    intercept = numbers(dataset, "RescaleIntercept")[:1] or [0.0]
    if slope[0] == 0:
        warnings.append("Rescale Slope 0 was left out")
        return 1.0, 0.0
    return slope[0], intercept[0]


def _views(dataset: Dataset, warnings: list[str]) -> list[GreyView]:
    return _lut_views(dataset, warnings) + _window_views(dataset, warnings)


def _lut_views(dataset: Dataset, warnings: list[str]) -> list[GreyView]:
    sequence = items(dataset, "VOILUTSequence")
    views = []
    for number, item in enumerate(sequence, 1):
        lut = read_lut(item, dataset)
        how = f"VOI LUT {number} of {len(sequence)}"
        if lut is None:
            warnings.append(f"{how} is unreadable and was left out")
            continue
        if lut.overstates:
            warnings.append(f"{how} states {lut.stated_bits} bits, its entries need {lut.bits}, which were used")
        views.append(GreyView(how, text_of(item, "LUTExplanation"), lut.shade, lut=lut))
    return views


def _window_views(dataset: Dataset, warnings: list[str]) -> list[GreyView]:
    centers, widths = numbers(dataset, "WindowCenter"), numbers(dataset, "WindowWidth")
    names = strings(dataset, "WindowCenterWidthExplanation")
    function = code_of(dataset, "VOILUTFunction") or "LINEAR"
    if function not in _WINDOW_FUNCTIONS:
        warnings.append(f"VOI LUT Function {function!r} is unknown; LINEAR was used")
        function = "LINEAR"
    if len(centers) != len(widths):
        warnings.append(f"the file has {len(centers)} window centers but {len(widths)} widths")
    count = min(len(centers), len(widths))
    views = []
    for number, (center, width) in enumerate(zip(centers, widths, strict=False), 1):
        how = f"window {number} of {count} ({function})"
        if width <= 0 or (function == "LINEAR" and width < 1):
            warnings.append(f"{how} has the impossible width {width:g}")
            continue
        name = names[number - 1] if number <= len(names) else ""
        view = GreyView(how, name, window_shade(function, center, width), window=(function, center, width))
        views.append(view)
    return views


def window_shade(function: str, center: float, width: float) -> Callable[[np.ndarray], np.ndarray]:
    """Return what maps modality values to 0 (dark) … 1 by LINEAR, LINEAR_EXACT or SIGMOID."""
    return lambda values: _WINDOW_FUNCTIONS[function](values, center, width)


def _linear(values: np.ndarray, center: float, width: float) -> np.ndarray:
    """PS3.3 C.11.2.1.2.1; a width of 1 is a threshold."""
    if width == 1:
        return (values > center - 0.5).astype(np.float64)
    return np.clip((values - (center - 0.5)) / (width - 1) + 0.5, 0, 1)


def _linear_exact(values: np.ndarray, center: float, width: float) -> np.ndarray:
    """PS3.3 C.11.2.1.3.2."""
    return np.clip((values - center) / width + 0.5, 0, 1)


def _sigmoid(values: np.ndarray, center: float, width: float) -> np.ndarray:
    """PS3.3 C.11.2.1.3.1, 1 / (1 + exp(-4 (x - c) / w)), written with tanh, which cannot overflow."""
    return 0.5 * (1 + np.tanh(2 * (values - center) / width))


_WINDOW_FUNCTIONS = {"LINEAR": _linear, "LINEAR_EXACT": _linear_exact, "SIGMOID": _sigmoid}


def _choose(views: Sequence[GreyView], window: int | str) -> GreyView | None:
    if not views:
        return None
    if isinstance(window, str):
        for view in views:
            if view.name.strip().lower() == window.strip().lower():
                return view
        names = ", ".join(repr(view.name) for view in views)
        raise ValueError(f"no window is named {window!r}; the file names {names}")
    if not 0 <= window < len(views):
        raise ValueError(f"window {window} does not exist; the file has {len(views)}, counted from 0")
    return views[window]


def _shows_something(shade: np.ndarray, counts: np.ndarray) -> bool:
    low, high = _percentile_values(shade, counts)
    return bool(high - low >= FLAT_SHARE)


def _percentile_values(values: np.ndarray, counts: np.ndarray) -> tuple[float, float]:
    order = np.argsort(values, kind="stable")
    cumulative = np.cumsum(counts[order])
    ranks = np.array(PERCENTILES) / 100 * cumulative[-1]
    low, high = values[order][np.searchsorted(cumulative, ranks)]
    return float(low), float(high)


def _percentile_shade(values: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, str]:
    low, high = _percentile_values(values, counts)
    how = "percentiles {:g}-{:g}".format(*PERCENTILES)
    if high <= low:
        used = values[counts > 0]
        low, high, how = float(used.min()), float(used.max()), "full range"
    if high <= low:
        return np.zeros_like(values), "constant"
    return np.clip((values - low) / (high - low), 0, 1), how
