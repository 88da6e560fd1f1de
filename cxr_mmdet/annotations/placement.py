"""Readers' boxes on their images: within the original, then scaled along with the prepared image."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cxr_mmdet.annotations.table import SIZE_COLUMNS
from cxr_mmdet.errors import TableError, counted
from cxr_mmdet.structures.boxes import XYXY_COLUMNS

FIRST_ON_ITS_SIDE = 5
"""From this EXIF orientation on, width and height change places."""

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import pandas as pd
    from numpy.typing import NDArray


def keep_within_images(
    rows: pd.DataFrame, sizes_hw: Mapping[str, tuple[int, int]], path: Path, *, clip: bool, unit: str = "line"
) -> tuple[pd.DataFrame, int]:
    """Return the rows with every box inside its image, and how many boxes were clipped for it.

    Args:
        rows: a validated readers' table; every image has a size.
        sizes_hw: (height, width) of each original image.
        path: the table, for the message.
        clip: cut boxes at the border instead of refusing them.
        unit: what the rows' places in the table count, for the message.

    Raises:
        TableError: a box reaches beyond its image and ``clip`` is off, or nothing would be left of it.
    """
    boxes: NDArray[np.float64] = rows[XYXY_COLUMNS].to_numpy(np.float64)
    limits = _sizes_whwh(rows["image_id"], sizes_hw)
    # "No finding" has no box: comparisons with NaN are False.
    outside = (boxes < 0) | (boxes > limits)
    clipped = np.clip(boxes, 0, limits)
    gone = (clipped[:, 2:] <= clipped[:, :2]).any(axis=1, keepdims=True)
    if gone.any():
        _refuse(rows, outside & gone, limits, f"{path}, {unit}", "fix or remove the row")
    if outside.any() and not clip:
        _refuse(rows, outside, limits, f"{path}, {unit}", "fix the row, or pass --clip-boxes")
    return rows.assign(**dict(zip(XYXY_COLUMNS, clipped.T, strict=True))), int(outside.any(axis=1).sum())


def fit_to_images(
    rows: pd.DataFrame, sizes_hw: Mapping[str, tuple[int, int]], orientations: Mapping[str, int], path: Path
) -> tuple[pd.DataFrame, list[str]]:
    """Return the rows with boxes in pixels of the upright images, without the sizes by the table, and notes.

    Boxes drawn on a larger or smaller copy are scaled; boxes drawn on an image as its file stores it, before a viewer
    turns it by its EXIF orientation, are turned with it. The sizes in the table tell which.

    Args:
        rows: validated rows, with ``table_height`` and ``table_width`` where the table says them.
        sizes_hw: (height, width) of each original image, upright.
        orientations: EXIF orientation of each image that was turned.
        path: the table, for messages.

    Raises:
        TableError: the size by the table is of another shape than the image.
    """
    if SIZE_COLUMNS[0] not in rows:
        return rows, _undecided(orientations, path)
    firsts = rows.dropna(subset=SIZE_COLUMNS).drop_duplicates("image_id")
    stated_hw = dict(zip(firsts["image_id"], firsts[SIZE_COLUMNS].astype(int).itertuples(index=False), strict=True))
    scaled, turned, undecided, wrong = [], [], dict(orientations), []
    factors = {}
    for name, stated in stated_hw.items():
        orientation, (height, width) = orientations.get(name, 1), sizes_hw[name]
        fits = _fit(tuple(stated), (height, width), may_be_turned=orientation >= FIRST_ON_ITS_SIDE)
        if fits is None:
            wrong.append(name)
            continue
        is_turned, (own_height, own_width) = fits
        factors[name] = (width / own_width, height / own_height)
        if (own_height, own_width) != (height, width):
            scaled.append(name)
        if is_turned:
            turned.append(name)
        if orientation >= FIRST_ON_ITS_SIDE and height != width:
            undecided.pop(name, None)
    if wrong:
        name, others = wrong[0], f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        stated, size = (f"{width} x {height}" for height, width in (stated_hw[name], sizes_hw[name]))
        raise TableError(
            f"{path}, image {name!r}{others}: its width and height are {stated}, but its image file is {size}, of "
            "another shape, so the boxes cannot be placed; give the images they were drawn on, or correct width and "
            "height."
        )
    boxes: NDArray[np.float64] = rows[XYXY_COLUMNS].to_numpy(np.float64, copy=True)
    ids = rows["image_id"].to_numpy()
    for name in turned:
        own = ids == name
        boxes[own] = _turn(boxes[own], stated_hw[name], orientations[name])
    boxes *= np.array([factors.get(name, (1.0, 1.0)) * 2 for name in ids]).reshape(-1, 4)
    notes = _undecided(undecided, path)
    if turned:
        notes.append(
            f"{counted(len(turned), 'image')}, such as {turned[0]}, turned upright by EXIF orientation: by its sizes "
            f"{path.name} was drawn before that, so the boxes were turned too."
        )
    if scaled:
        stated, size = (f"{width} x {height}" for height, width in (stated_hw[scaled[0]], sizes_hw[scaled[0]]))
        notes.append(
            f"the boxes of {counted(len(scaled), 'image')} were drawn on images of another size and were scaled, "
            f"such as {scaled[0]}: {stated} in {path.name}, {size} here."
        )
    return rows.assign(**dict(zip(XYXY_COLUMNS, boxes.T, strict=True))).drop(columns=SIZE_COLUMNS), notes


def _fit(
    stated_hw: tuple[int, ...], size_hw: tuple[int, int], *, may_be_turned: bool
) -> tuple[bool, tuple[int, int]] | None:
    """Return whether a size by the table is that of the stored image, and that size upright; None for neither."""
    height, width = stated_hw
    if min(height, width) < 1:
        return None
    choices = [(False, (height, width)), *([(True, (width, height))] if may_be_turned else [])]
    exact = [choice for choice in choices if choice[1] == size_hw]
    # Rounding to whole pixels changes a side by less than one.
    alike = [(t, (h, w)) for t, (h, w) in choices if abs(w * size_hw[0] - h * size_hw[1]) <= max(h, w, *size_hw)]
    return next(iter([*exact, *alike]), None)


def _turn(boxes: NDArray[np.float64], stored_hw: tuple[int, int], orientation: int) -> NDArray[np.float64]:
    """Return boxes of an image that lies on its side, once it stands upright (CIPA DC-008 4.6.4 A)."""
    height, width = stored_hw
    x_min, y_min, x_max, y_max = boxes.T
    across = (height - y_max, height - y_min) if orientation in (6, 7) else (y_min, y_max)
    down = (width - x_max, width - x_min) if orientation in (7, 8) else (x_min, x_max)
    return np.stack([across[0], down[0], across[1], down[1]], axis=1)


def _undecided(orientations: Mapping[str, int], path: Path) -> list[str]:
    if not orientations:
        return []
    return [
        f"{counted(len(orientations), 'image')}, such as {min(orientations)}, turned upright by EXIF orientation: "
        f"{path.name} does not say whether its boxes were drawn before or after; they are taken as drawn after, as "
        "annotation tools show images."
    ]


def scale_to_prepared(
    boxes: pd.DataFrame,
    original_sizes_hw: Mapping[str, tuple[int, int]],
    prepared_sizes_hw: Mapping[str, tuple[int, int]],
) -> pd.DataFrame:
    """Return the boxes in prepared-image pixels; each axis has its own factor, since both sizes are whole pixels."""
    original = _sizes_whwh(boxes["image_id"], original_sizes_hw)
    prepared = _sizes_whwh(boxes["image_id"], prepared_sizes_hw)
    scaled = boxes[XYXY_COLUMNS].to_numpy(np.float64) * prepared / original
    return boxes.assign(**dict(zip(XYXY_COLUMNS, scaled.T, strict=True)))


def _sizes_whwh(image_ids: pd.Series, sizes_hw: Mapping[str, tuple[int, int]]) -> NDArray[np.float64]:
    sizes = np.array([sizes_hw[image_id] for image_id in image_ids], dtype=np.float64).reshape(-1, 2)
    return sizes[:, [1, 0, 1, 0]]


def _refuse(
    rows: pd.DataFrame, outside: NDArray[np.bool_], limits: NDArray[np.float64], where: str, remedy: str
) -> None:
    bad = np.flatnonzero(outside.any(axis=1))
    row, side = bad[0], int(outside[bad[0]].argmax())
    column, value = XYXY_COLUMNS[side], rows[XYXY_COLUMNS[side]].iloc[row]
    edge = "width" if side % 2 == 0 else "height"
    border = "is negative" if value < 0 else f"is beyond the image {edge} {limits[row, side]:g}"
    others = f" (and {len(bad) - 1} more)" if len(bad) > 1 else ""
    raise TableError(f"{where} {rows['line'].iloc[row]}{others}: {column} {value:g} {border}; {remedy}.")
