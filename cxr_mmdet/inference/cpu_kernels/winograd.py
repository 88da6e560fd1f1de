"""3x3 convolutions with a quarter of the multiplications (Winograd's F(4x4, 3x3)), for graphs that runtimes then run.

A map is cut into tiles of 4 x 4 cells. Each tile and the ring around it, 36 cells, is transformed, multiplied with
the transformed kernel, place by place, and transformed back: 36 products of channels by channels instead of 144. All
of it is gathers and matrix products, which ONNX Runtime and OpenVINO do at the processor's peak; their own
convolutions on x86 have no such way. Sums are the same up to rounding.

Cells are rows here: (cells, channels), whatever image and level of a pyramid they belong to, and a row of zeros at
the end, which stands for everything beyond a border. A layer gives 16 rows per tile, all tiles' first cells first;
*tables* say which 36 rows a tile of the next layer is made of.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from cxr_mmdet.inference.cpu_kernels.on_demand import RING, TILE

if TYPE_CHECKING:
    from collections.abc import Sequence

MIN_CHANNELS = 128
"""With fewer, moving the tiles takes as long as the products that are saved."""

# Lavin & Gray, Fast Algorithms for Convolutional Neural Networks, 2015: points 0, 1, -1, 2, -2 and infinity.
_INPUT = [
    [4, 0, -5, 0, 1, 0],
    [0, -4, -4, 1, 1, 0],
    [0, 4, -4, -1, 1, 0],
    [0, -2, -1, 2, 1, 0],
    [0, 2, -1, -2, 1, 0],
    [0, 4, 0, -5, 0, 1],
]
_KERNEL = [
    [1 / 4, 0, 0],
    [-1 / 6, -1 / 6, -1 / 6],
    [-1 / 6, 1 / 6, -1 / 6],
    [1 / 24, 1 / 12, 1 / 6],
    [1 / 24, -1 / 12, 1 / 6],
    [0, 0, 1],
]
_OUTPUT = [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]]


def is_eligible(module: Any, min_channels: int = 1) -> bool:
    """Return whether a module is a plain 3x3 convolution that keeps the size, with enough channels."""
    return (
        type(module) is nn.Conv2d
        and module.kernel_size == (3, 3)
        and module.stride == module.padding == module.dilation == (1, 1)
        and module.groups == 1
        and module.padding_mode == "zeros"
        and min(module.in_channels, module.out_channels) >= min_channels
    )


class TileConv(nn.Module):
    """A convolution from rows to rows.

    Args:
        conv: for which :func:`is_eligible` holds.
    """

    _input: Tensor
    _kernel: Tensor
    _output: Tensor

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        # The kernel is transformed in the graph, which runtimes do once, at loading: files stay small.
        self.kernel = nn.Parameter(conv.weight.detach().permute(2, 3, 1, 0).reshape(9, -1).contiguous())
        self.bias = None if conv.bias is None else nn.Parameter(conv.bias.detach().clone())
        self.channels = conv.in_channels, conv.out_channels
        dtype = conv.weight.dtype
        for name, matrix in (("_input", _INPUT), ("_kernel", _KERNEL), ("_output", _OUTPUT)):
            one = torch.tensor(matrix, dtype=torch.float64)
            self.register_buffer(name, torch.kron(one, one).to(dtype), persistent=False)

    def forward(self, rows: Tensor, table: Tensor) -> Tensor:
        """Return (16 * T, C_out) rows, without the row of zeros.

        Args:
            rows: (R, C_in), the last one zeros.
            table: (36, T) integers: the rows that each tile and its ring are made of.
        """
        entering, leaving = self.channels
        kernel = (self._kernel @ self.kernel).reshape(RING * RING, entering, leaving)
        tiles = rows.index_select(0, table.reshape(-1)).reshape(RING * RING, -1)
        products = (self._input @ tiles).reshape(RING * RING, -1, entering) @ kernel
        sums = (self._output @ products.reshape(RING * RING, -1)).reshape(-1, leaving)
        return sums if self.bias is None else sums + self.bias


class TileConv2d(nn.Module):
    """The same from map to map, in the place of a ``Conv2d``: (N, C, H, W)."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = TileConv(conv)

    def forward(self, image: Tensor) -> Tensor:
        """Return the convolved map."""
        grid = Grid.of([image])
        (convolved,) = grid.maps(self.conv(grid.rows, grid.first))
        return convolved.permute(0, 3, 1, 2)


class Branch(nn.Module):
    """Convolutions with ReLU in between, over the rows of all levels at once."""

    convs: Sequence[TileConv]

    def __init__(self, convs: Sequence[nn.Conv2d]) -> None:
        super().__init__()
        self.convs = nn.ModuleList([TileConv(conv) for conv in convs])  # type: ignore[assignment]

    def forward(self, rows: Tensor, *tables: Tensor) -> Tensor:
        """Return the last convolution's (16 * T, C) rows.

        Args:
            rows: (R, C), the last one zeros.
            tables: (36, T) of each convolution.
        """
        for number, (conv, table) in enumerate(zip(self.convs, tables, strict=True)):
            rows = conv(with_zeros(rows.relu()) if number else rows, table)
        return rows


@dataclass(frozen=True)
class Grid:
    """The rows of a pyramid, and every table that whole maps need; sizes may be traced.

    Attributes:
        rows: (R + 1, C), level by level, in each image by image, in each row by row.
        first: (36, T), for a convolution of ``rows``.
        inner: (36, T), for one of another's rows.
        last: of each level (N * H * W,), where its cells are among a convolution's rows.
        sizes: (N, H, W) of each level.
    """

    rows: Tensor
    first: Tensor
    inner: Tensor
    last: tuple[Tensor, ...]
    sizes: tuple[Any, ...]

    @classmethod
    def of(cls, pyramid: Sequence[Tensor]) -> Grid:
        """Return the grid of (N, C, H, W) maps with equally many channels."""
        rows = with_zeros(torch.cat([level.permute(0, 2, 3, 1).reshape(-1, level.shape[1]) for level in pyramid]))
        sizes = tuple((level.shape[0], level.shape[2], level.shape[3]) for level in pyramid)
        cells = sum(images * height * width for images, height, width in sizes)
        tiles = sum(images * tiles_of(height) * tiles_of(width) for images, height, width in sizes)
        first, inner, last = [], [], []
        cell = tile = 0
        for images, height, width in sizes:
            down, right = tiles_of(height), tiles_of(width)
            y, x = _ring(down)[:, None, None, :, None], _ring(right)[None, :, None, None, :]
            inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
            number = torch.arange(images)[None, None, :, None, None]
            first.append(torch.where(inside, cell + (number * height + y) * width + x, cells).reshape(RING**2, -1))
            place = (_places()[:, None] * TILE + _places()[None, :])[:, :, None, None, None]
            above = (_shifts()[:, None] + torch.arange(down))[:, None, None, :, None]
            left = (_shifts()[:, None] + torch.arange(right))[None, :, None, None, :]
            row = place * tiles + tile + (number * down + above) * right + left
            inner.append(torch.where(inside, row, TILE**2 * tiles).reshape(RING**2, -1))
            own = torch.arange(TILE)
            place = (own[:, None] * TILE)[None, None, :, None, :] + own
            tops = (torch.arange(images)[:, None] * down + torch.arange(down))[:, :, None, None, None] * right
            row = place * tiles + tile + tops + torch.arange(right)[None, None, None, :, None]
            last.append(row.reshape(images, TILE * down, TILE * right)[:, :height, :width].reshape(-1))
            cell, tile = cell + images * height * width, tile + images * down * right
        return cls(rows, torch.cat(first, dim=1), torch.cat(inner, dim=1), tuple(last), sizes)

    def maps(self, rows: Tensor) -> list[Tensor]:
        """Return a convolution's rows as one (N, H, W, C) map per level."""
        return [
            rows.index_select(0, cells).reshape(images, height, width, rows.shape[1])
            for cells, (images, height, width) in zip(self.last, self.sizes, strict=True)
        ]


def with_zeros(rows: Tensor) -> Tensor:
    """Return the rows and one of zeros."""
    return torch.cat([rows, rows.new_zeros(1, rows.shape[1])])


def replace_convolutions(module: nn.Module, min_channels: int = MIN_CHANNELS) -> None:
    """Put a :class:`TileConv2d` in the place of every convolution that gains by it."""
    for name, child in module.named_children():
        if is_eligible(child, min_channels):
            setattr(module, name, TileConv2d(child))  # type: ignore[arg-type]
        else:
            replace_convolutions(child, min_channels)


def tiles_of(side: Any) -> Any:
    """Return the number of tiles that cover a number of cells."""
    return (side + (TILE - 1)) // TILE


def _ring(tiles: Any) -> Tensor:
    """Return the coordinates of each tile's 6 rows of cells: (6, tiles)."""
    return torch.arange(RING)[:, None] - 1 + TILE * torch.arange(tiles)


def _shifts() -> Tensor:
    """Return which tile the 6 rows of cells are in, as seen from their own."""
    return torch.tensor([-1, 0, 0, 0, 0, 1])


def _places() -> Tensor:
    """Return where in that tile they are."""
    return torch.tensor([3, 0, 1, 2, 3, 0])
