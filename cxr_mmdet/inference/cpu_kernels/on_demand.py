"""Deltas of single anchors: out of whole maps, or out of a box branch that computes only the cells asked for.

A stack of 3x3 convolutions is computed in tiles of 4 x 4 cells; :func:`plan_tiles` finds those that some cells of the
last convolution depend on.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import cv2
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    Array = NDArray[np.float32]
    Indices = NDArray[np.int64]

TILE, RING = 4, 6
"""Sides of a tile in cells, alone and with the cells around it."""


@dataclass(frozen=True)
class Plan:
    """Rows to gather.

    Attributes:
        tables: per convolution, (36, T) int64: the rows of its input that a tile and its ring consist of.
        cells: indices of the wanted cells among the rows of the last convolution, level by level, each row by row.
    """

    tables: tuple[NDArray[np.int64], ...]
    cells: NDArray[np.int64]


class Deltas(Protocol):
    """Deltas of a batch of images."""

    def at(self, index: int, indices: Sequence[Indices]) -> list[Array]:
        """Return, per level, the (n, values) deltas of anchors of one image.

        Args:
            index: index of the image in the batch.
            indices: per level, the rows of the anchors in the table of (row, column, anchor).
        """
        ...


@dataclass(frozen=True, eq=False)
class WholeMaps:
    """Deltas of every anchor.

    Attributes:
        levels: per level, (N, A * values, H, W).
        values: numbers per anchor; see :attr:`cxr_mmdet.inference.spec.AnchorMaps.values`.
    """

    levels: Sequence[Array] = field(repr=False)
    values: int = 4

    def at(self, index: int, indices: Sequence[Indices]) -> list[Array]:
        """See :class:`Deltas`."""
        return [
            level[index].transpose(1, 2, 0).reshape(-1, self.values)[rows]
            for level, rows in zip(self.levels, indices, strict=True)
        ]


@dataclass(frozen=True, eq=False)
class OnDemand:
    """Deltas that the box branch computes at the cells asked for; the rest of its maps is never computed.

    Attributes:
        branch: returns the (n, A * 4) deltas of a plan's cells.
        sizes: per level, (N, H, W); the cells are the branch's input, level by level, image by image.
        depth: number of 3x3 convolutions of the branch.
        anchors: per level, the number of anchors of a cell.
    """

    branch: Callable[[Plan], Array] = field(repr=False)
    sizes: Sequence[tuple[int, int, int]]
    depth: int
    anchors: Sequence[int]

    def at(self, index: int, indices: Sequence[Indices]) -> list[Array]:
        """See :class:`Deltas`."""
        if not any(len(level) for level in indices):
            return [np.empty((0, 4), dtype=np.float32) for _ in indices]
        starts = np.cumsum([0] + [images * height * width for images, height, width in self.sizes])
        firsts, wanted, rows, count = [], [], [], 0
        for (_, height, width), start, asked, anchors in zip(self.sizes, starts, indices, self.anchors, strict=False):
            cells, of_cell = np.unique(asked // anchors, return_inverse=True)
            level = np.zeros(height * width, dtype=bool)
            level[cells] = True
            wanted.append(level.reshape(height, width))
            firsts.append(int(start) + index * height * width)
            rows.append(count + of_cell.reshape(-1))
            count += len(cells)
        deltas = self.branch(plan_tiles(wanted, firsts, int(starts[-1]), self.depth))
        return [
            deltas[row].reshape(len(row), anchors, 4)[np.arange(len(row)), asked % anchors]
            for row, asked, anchors in zip(rows, indices, self.anchors, strict=True)
        ]


def plan_tiles(wanted: Sequence[NDArray[np.bool_]], starts: Sequence[int], rows: int, depth: int) -> Plan:
    """Return the tiles that the wanted cells of each level depend on, at least one.

    A convolution's input reaches one cell further than its output. Cells beyond that are left as zeros where nothing
    else needs them: in exact arithmetic no wanted cell depends on them.

    Args:
        wanted: per level, (H, W), with at least one cell in all.
        starts: per level, the row of its first cell in the input of the first convolution.
        rows: number of rows of that input, and the index of its row of zeros.
        depth: number of convolutions.
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
    """Return the row of each cell of a level among the rows of a convolution; negative for cells of no tile."""
    height, width = shape
    down, right = -(-height // TILE), -(-width // TILE)
    rows = np.full((down, right, TILE, TILE), -1, dtype=np.int64)
    places = np.arange(TILE * TILE).reshape(TILE, TILE) * count
    rows[tiles[:, 0], tiles[:, 1]] = start + np.arange(len(tiles))[:, None, None] + places
    return rows.transpose(0, 2, 1, 3).reshape(TILE * down, TILE * right)[:height, :width]
