"""The deltas of single anchors, out of whole maps or out of a network that computes only what is asked for."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np

from cxr_mmdet.inference.cpu_kernels.tiles import Plan, plan_tiles

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    Array = NDArray[np.float32]
    Places = NDArray[np.int64]


class Deltas(Protocol):
    """What a backend knows of a batch's boxes."""

    def at(self, index: int, places: Sequence[Places]) -> list[Array]:
        """Return the (n, 4) deltas of anchors of one picture.

        Args:
            index: of the picture in the batch.
            places: of each level, the anchors' rows in the table of (row, column, anchor).
        """
        ...


@dataclass(frozen=True, eq=False)
class WholeMaps:
    """Deltas of every anchor.

    Attributes:
        levels: (N, A * 4, H, W) of each level.
    """

    levels: Sequence[Array] = field(repr=False)

    def at(self, index: int, places: Sequence[Places]) -> list[Array]:
        """See :class:`Deltas`."""
        return [
            level[index].transpose(1, 2, 0).reshape(-1, 4)[chosen]
            for level, chosen in zip(self.levels, places, strict=True)
        ]


@dataclass(frozen=True, eq=False)
class OnDemand:
    """Deltas that the box branch computes where they are asked for; the rest of its maps never exists.

    Attributes:
        branch: gives the (n, A * 4) deltas of a plan's cells.
        sizes: (N, H, W) of each level, whose cells are the branch's input, level by level, picture by picture.
        depth: the branch's 3x3 convolutions.
        anchors: of a cell of each level.
    """

    branch: Callable[[Plan], Array] = field(repr=False)
    sizes: Sequence[tuple[int, int, int]]
    depth: int
    anchors: Sequence[int]

    def at(self, index: int, places: Sequence[Places]) -> list[Array]:
        """See :class:`Deltas`."""
        if not any(len(chosen) for chosen in places):
            return [np.empty((0, 4), dtype=np.float32) for _ in places]
        starts = np.cumsum([0] + [pictures * height * width for pictures, height, width in self.sizes])
        firsts, wanted, rows, count = [], [], [], 0
        for (_, height, width), start, chosen, anchors in zip(self.sizes, starts, places, self.anchors, strict=False):
            cells, which = np.unique(chosen // anchors, return_inverse=True)
            level = np.zeros(height * width, dtype=bool)
            level[cells] = True
            wanted.append(level.reshape(height, width))
            firsts.append(int(start) + index * height * width)
            rows.append(count + which.reshape(-1))
            count += len(cells)
        found = self.branch(plan_tiles(wanted, firsts, int(starts[-1]), self.depth))
        return [
            found[row].reshape(len(row), anchors, 4)[np.arange(len(row)), chosen % anchors]
            for row, chosen, anchors in zip(rows, places, self.anchors, strict=True)
        ]
