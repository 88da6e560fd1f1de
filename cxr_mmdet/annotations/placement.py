"""Readers' boxes on their pictures: within the original, then scaled along with the prepared image."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cxr_mmdet.boxes import XYXY_COLUMNS
from cxr_mmdet.errors import TableError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import pandas as pd
    from numpy.typing import NDArray


def keep_within_images(
    rows: pd.DataFrame, sizes_hw: Mapping[str, tuple[int, int]], path: Path, *, clip: bool, unit: str = "line"
) -> tuple[pd.DataFrame, int]:
    """Return the rows with every box inside its picture, and how many boxes were clipped for it.

    Args:
        rows: a validated readers' table; every image has a size.
        sizes_hw: (height, width) of each original picture.
        path: the table, for the message.
        clip: cut boxes at the border instead of refusing them.
        unit: what the rows' places in the table count, for the message.

    Raises:
        TableError: a box reaches beyond its picture and ``clip`` is off, or nothing would be left of it.
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
