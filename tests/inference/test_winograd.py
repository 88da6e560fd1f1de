"""Convolutions by tiles are the convolutions they stand for, over whole maps and at single cells."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from detectors import checkpoint_of
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from cxr_mmdet.inference.cpu_kernels.on_demand import plan_tiles
from cxr_mmdet.inference.cpu_kernels.winograd import Branch, Grid, TileConv2d, is_eligible, replace_convolutions
from cxr_mmdet.inference.export.export import ExportOptions, export_model
from cxr_mmdet.structures.enums import ExportFormat

EXACT = {"rtol": 0, "atol": 1e-11}
"""In double precision both ways of adding give the same."""


def conv(entering: int, leaving: int, **options) -> nn.Conv2d:
    torch.manual_seed(entering + leaving)
    return nn.Conv2d(entering, leaving, 3, **({"padding": 1} | options)).double()


def random_maps(sizes, channels: int, images: int = 1) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(7)
    return [torch.randn(images, channels, *size, generator=generator, dtype=torch.float64) for size in sizes]


def stacked(convs, level: torch.Tensor) -> torch.Tensor:
    for number, layer in enumerate(convs):
        level = layer(level.relu() if number else level)
    return level


@settings(max_examples=40)
@given(st.integers(1, 14), st.integers(1, 14), st.integers(1, 3), st.booleans())
def test_a_convolution_by_tiles(height, width, images, bias):
    layer = conv(5, 3, bias=bias)
    (level,) = random_maps([(height, width)], 5, images)
    torch.testing.assert_close(TileConv2d(layer)(level), layer(level), **EXACT)


def test_rounding_stays_small():
    """In single precision, with as many channels as a head has."""
    layer = conv(256, 256)
    (level,) = random_maps([(16, 16)], 256)
    exact = layer(level)
    found = TileConv2d(layer.float())(level.float())
    assert (found - exact).abs().max() < 2e-5 * exact.abs().max()


@pytest.mark.parametrize("images", [1, 2])
def test_a_branch_over_all_levels_at_once(images):
    convs = [conv(6, 6), conv(6, 6), conv(6, 4)]
    levels = random_maps([(13, 9), (7, 5), (1, 1)], 6, images)
    grid = Grid.of(levels)
    rows = Branch(convs)(grid.rows, grid.first, grid.inner, grid.inner)
    for level, found in zip(levels, grid.maps(rows), strict=True):
        torch.testing.assert_close(found.permute(0, 3, 1, 2), stacked(convs, level), **EXACT)


SIZES = [(13, 9), (7, 5), (2, 1)]
CELLS = [(level, y, x) for level, (height, width) in enumerate(SIZES) for y in range(height) for x in range(width)]


@settings(max_examples=60)
@given(st.sets(st.sampled_from(CELLS), min_size=1, max_size=12), st.integers(1, 4), st.integers(0, 1))
def test_single_cells_of_a_branch(cells, depth, image):
    convs = [conv(4, 4) for _ in range(depth)]
    levels = random_maps(SIZES, 4, 2)
    grid = Grid.of(levels)
    wanted = [np.zeros(size, dtype=bool) for size in SIZES]
    for level, y, x in cells:
        wanted[level][y, x] = True
    starts = np.cumsum([0] + [2 * height * width for height, width in SIZES]).tolist()
    firsts = [start + image * height * width for start, (height, width) in zip(starts, SIZES, strict=False)]
    plan = plan_tiles(wanted, firsts, starts[-1], depth)
    rows = Branch(convs)(grid.rows, *map(torch.from_numpy, plan.tables))
    whole = [stacked(convs, level)[image].permute(1, 2, 0) for level in levels]
    expected = torch.cat([level[torch.from_numpy(mask)] for level, mask in zip(whole, wanted, strict=True)])
    torch.testing.assert_close(rows[torch.from_numpy(plan.cells)], expected, **EXACT)


@pytest.mark.parametrize(
    ("cell", "tiles"),
    # Of the last convolution one tile; a convolution before looks one cell further each time.
    [((0, 0), [1, 1, 1, 1]), ((99, 99), [1, 1, 1, 1]), ((41, 42), [9, 4, 1, 1]), ((40, 43), [4, 4, 4, 1])],
)
def test_only_what_a_cell_depends_on_is_computed(cell, tiles):
    wanted = np.zeros((100, 100), dtype=bool)
    wanted[cell] = True
    plan = plan_tiles([wanted], [0], wanted.size, 4)
    assert [table.shape for table in plan.tables] == [(36, count) for count in tiles]


def test_everything_wanted_is_every_tile_once():
    wanted = [np.ones((10, 7), dtype=bool), np.ones((1, 1), dtype=bool)]
    plan = plan_tiles(wanted, [0, 70], 71, 3)
    assert [table.shape[1] for table in plan.tables] == [3 * 2 + 1] * 3
    assert len(set(plan.cells.tolist())) == 71


def test_which_convolutions_are_replaced():
    kept = [
        conv(8, 8, stride=2),
        conv(8, 8, dilation=2, padding=2),
        conv(8, 8, groups=2),
        conv(8, 8, padding=0),
        conv(8, 8, padding_mode="reflect"),
        nn.Conv2d(8, 8, 1),
        conv(4, 8),
    ]
    model = nn.Sequential(*kept, nn.Sequential(conv(8, 16)))
    assert [is_eligible(layer, 8) for layer in kept] == [False] * len(kept)
    replace_convolutions(model, 8)
    assert list(model)[:-1] == kept
    assert isinstance(model[-1][0], TileConv2d)


def test_export_without_winograd_has_the_runtimes_convolutions(tmp_path):
    """Exporting compares the bundle with torch, so that it returns only where both agree."""
    checkpoint = str(checkpoint_of("retina"))
    options = ExportOptions(format=ExportFormat.ONNX, winograd=False)
    bundle = export_model(checkpoint, tmp_path / "plain", options)
    assert bundle.box_depth == 0
    assert {path.name for path in bundle.path.glob("*.onnx")} == {"maps.onnx"}
