"""Which tiles of 4 x 4 cells a stack of 3x3 convolutions must compute so that some cells of the last one are right."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

TILE, RING = 4, 6
"""Sides of a tile in cells, alone and with the cells around it."""


@dataclass(frozen=True)
class Plan:
    """What to gather.

    Attributes:
        tables: for each convolution (36, T) int64: the rows of its input that a tile and its ring are made of.
        cells: where the wanted cells are among the last one's rows, level by level, in each row by row.
    """

    tables: tuple[NDArray[np.int64], ...]
    cells: NDArray[np.int64]


def plan_tiles(wanted: Sequence[NDArray[np.bool_]], starts: Sequence[int], rows: int, depth: int) -> Plan:
    """Return the tiles that the wanted cells of each level depend on, at least one.

    A convolution's input reaches one cell further than its output. Cells beyond that are left as zeros where nothing
    else needs them: in exact arithmetic no wanted cell depends on them.

    Args:
        wanted: (H, W) of each level, with at least one cell in all.
        starts: the row of each level's first cell in the input of the first convolution.
        rows: of that input; number ``rows`` is the row of zeros.
        depth: how many convolutions.
    """
    needed = [list(wanted)]
    for _ in range(depth - 1):
        needed.insert(0, [_dilate(level) for level in needed[0]])
    before = [
        np.arange(start, start + level.size).reshape(level.shape) for start, level in zip(starts, wanted, strict=True)
    ]
    beyond = rows
    tables = []
    for layer in needed:
        tiles = [np.argwhere(_tiles(level)) for level in layer]
        count = sum(len(level) for level in tiles)
        tables.append(np.concatenate([_table(*each, beyond) for each in zip(before, tiles, strict=True)], axis=1))
        before, beyond, start = [], TILE * TILE * count, 0
        for level, corners in zip(layer, tiles, strict=True):
            before.append(_rows_of(level.shape, corners, start, count))
            start += len(corners)
    return Plan(tuple(tables), np.concatenate([row[level] for row, level in zip(before, wanted, strict=True)]))


def _dilate(cells: NDArray[np.bool_]) -> NDArray[np.bool_]:
    return cv2.dilate(cells.view(np.uint8), np.ones((3, 3), dtype=np.uint8)).astype(bool)


def _tiles(cells: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return which tiles hold any of the cells."""
    height, width = cells.shape
    padded = np.pad(cells, ((0, -height % TILE), (0, -width % TILE)))
    return np.asarray(padded.reshape(padded.shape[0] // TILE, TILE, -1, TILE).any(axis=(1, 3)))


def _table(before: NDArray[np.int64], tiles: NDArray[np.int64], beyond: int) -> NDArray[np.int64]:
    """Return (36, T): the rows around each tile; ``before`` has the row of each cell, negative for none."""
    height, width = before.shape
    padded = np.full((height + 1 + TILE, width + 1 + TILE), beyond, dtype=np.int64)
    padded[1 : height + 1, 1 : width + 1] = np.where(before < 0, beyond, before)
    ring = np.arange(RING)
    y, x = TILE * tiles[:, 0] + ring[:, None], TILE * tiles[:, 1] + ring[:, None]
    return padded[y[:, None], x[None, :]].reshape(RING * RING, -1)


def _rows_of(shape: tuple[int, ...], tiles: NDArray[np.int64], start: int, count: int) -> NDArray[np.int64]:
    """Return the row of each cell of a level among what a convolution gives; negative for cells of no tile."""
    height, width = shape
    down, right = -(-height // TILE), -(-width // TILE)
    rows = np.full((down, right, TILE, TILE), -1, dtype=np.int64)
    places = np.arange(TILE * TILE).reshape(TILE, TILE) * count
    rows[tiles[:, 0], tiles[:, 1]] = start + np.arange(len(tiles))[:, None, None] + places
    return rows.transpose(0, 2, 1, 3).reshape(TILE * down, TILE * right)[:height, :width]
