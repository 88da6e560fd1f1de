"""A radiograph that is windowed again and again: from full depth, by the same steps as reading it once."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from cxr_mmdet.dicom import windowing
from cxr_mmdet.dicom.radiograph import decode_radiograph
from cxr_mmdet.dicom.source import MAX_PIXELS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from cxr_mmdet.dicom.radiograph import Radiograph


@dataclass(frozen=True)
class Window:
    """A window in modality values (what the file calls its values after rescale)."""

    center: float
    width: float


@dataclass(frozen=True, eq=False)
class Viewable:
    """Full-depth values of a radiograph, ready to show through any window.

    Attributes:
        table: the stored values and where they stand.
        values: (K,) the modality value of each.
        own_levels: (K,) uint8, how the file asks for them to be shown.
        inverted: whether high values are dark.
        function: LINEAR, LINEAR_EXACT or SIGMOID, as the file's own window.
        start: a window that looks like the file's own view, or as close as a window comes.
        value_range: lowest and highest modality value in the image.
    """

    table: windowing.ValueTable = field(repr=False)
    values: NDArray[np.float64] = field(repr=False)
    own_levels: NDArray[np.uint8] = field(repr=False)
    inverted: bool
    function: str
    start: Window
    value_range: tuple[float, float]

    @property
    def nbytes(self) -> int:
        """Memory it takes."""
        tables = (self.table.values, self.table.counts, self.table.index, self.values, self.own_levels)
        return sum(table.nbytes for table in tables)

    def render(
        self, window: Window | None = None, *, invert: bool = False, part: tuple[slice, slice] | None = None
    ) -> NDArray[np.uint8]:
        """Return (H, W) levels, 0 is black.

        Args:
            window: None shows what the file asks for, as :func:`read_radiograph` does.
            invert: swap black and white.
            part: rows and columns; all by default.
        """
        levels = self.own_levels if window is None else self._levels(window)
        index = self.table.index if part is None else np.ascontiguousarray(self.table.index[part])
        return windowing.look_up(255 - levels if invert else levels, index)

    def _levels(self, window: Window) -> NDArray[np.uint8]:
        shade = windowing.window_shade(self.function, window.center, max(1.0, window.width))(self.values)
        return np.rint((1 - shade if self.inverted else shade) * 255).astype(np.uint8)


def read_viewable(content: bytes, name: str, *, max_pixels: int = MAX_PIXELS) -> tuple[Radiograph, Viewable]:
    """Return a radiograph as its file asks it to be shown, and its values for other windows.

    Args:
        content: of a DICOM file or image.
        name: how messages call it.
        max_pixels: rows times columns beyond which nothing is decoded.

    Raises:
        DicomError: as :func:`read_radiograph`.
    """
    stored = decode_radiograph(content, name=name, max_pixels=max_pixels)
    radiograph, dataset = stored.render(), stored.dataset
    function = "LINEAR"
    own: Window | None = None
    if dataset is not None and radiograph.is_grey:
        ignored: list[str] = []
        padding = windowing.padding_range(dataset, is_signed=stored.values.dtype.kind == "i")
        table = windowing.tabulate(stored.values, padding, ignored)
        values = windowing.modality_values(table.values, dataset, ignored)
        inverted = windowing.is_inverted(dataset, ignored)
        view = windowing.own_view(dataset)
        if view is not None and view.window is not None:
            function, center, width = view.window
            # Where the window shows nothing, reading took something else.
            own = Window(center, width) if radiograph.windowing == view.how else None
    else:
        # Colour, palettes and images have one view only: its 16-bit levels are the values.
        table = windowing.tabulate(stored.render(bits=16).pixels, None, [])
        values, inverted, own = table.values, False, Window(32768.0, 65536.0)
    return radiograph, _viewable(radiograph.pixels, table, values, inverted, function, own)


def _viewable(
    pixels: NDArray[np.uint8],
    table: windowing.ValueTable,
    values: NDArray[np.float64],
    inverted: bool,
    function: str,
    own: Window | None,
) -> Viewable:
    own_levels = np.zeros(len(table.values), dtype=np.uint8)
    # One value has one level, so the image itself tells the levels of all values that occur.
    own_levels[table.index.ravel()] = pixels.ravel()
    present = table.counts > 0
    low, high = float(values[present].min()), float(values[present].max())
    start = own or _window_like(values[present], own_levels[present], (low, high))
    return Viewable(table, values, own_levels, inverted, function, start, (low, high))


def _window_like(values: NDArray[np.float64], levels: NDArray[np.uint8], value_range: Sequence[float]) -> Window:
    """Return the window that ends where the levels reach black and white."""
    middle = values[(levels > 0) & (levels < 255)]
    low, high = (float(middle.min()), float(middle.max())) if len(middle) else value_range
    return Window((low + high + 1) / 2, max(1.0, high - low + 1))
