"""Regions cut out by a sparse matrix are those of torchvision's RoI align, which mmdet uses."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import roi_align

from cxr_mmdet.inference.cpu_kernels.sparse_roi_align import pool_regions, pooling_weights
from cxr_mmdet.inference.spec import Pooling

SIZES = [(2, 13, 9), (2, 7, 5)]
STRIDES = (8.0, 16.0)
CHANNELS = 3


def features() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(n, CHANNELS, height, width, generator=generator) for n, height, width in SIZES]


def rows_of(levels) -> np.ndarray:
    return np.concatenate([level.permute(0, 2, 3, 1).reshape(-1, CHANNELS).numpy() for level in levels])


def oracle(pooling: Pooling, levels, rois, of_level) -> np.ndarray:
    bins = pooling.size_hw[0] * pooling.size_hw[1]
    expected = np.zeros((len(rois), bins, CHANNELS), dtype=np.float32)
    for number, (level, stride) in enumerate(zip(levels, STRIDES, strict=True)):
        mine = torch.from_numpy(rois[of_level == number])
        pooled = roi_align(level, mine, pooling.size_hw, 1 / stride, pooling.samples, pooling.aligned)
        expected[of_level == number] = pooled.flatten(2).transpose(1, 2).numpy()
    return expected


coordinate = st.floats(-40, 160, width=32)
box = st.tuples(st.integers(0, 1), coordinate, coordinate, coordinate, coordinate, st.integers(0, 1))


@settings(max_examples=60)
@given(st.lists(box, min_size=1, max_size=8), st.sampled_from([0, 2, 3]), st.booleans())
def test_regions_anywhere(entries, samples, aligned):
    """Also beyond the image, and without extent."""
    table = np.array(entries, dtype=np.float32)
    corners = np.sort(table[:, 1:5].reshape(-1, 2, 2), axis=1).reshape(-1, 4)
    rois = np.concatenate([table[:, :1], corners], axis=1)
    of_level = table[:, 5].astype(np.int64)
    pooling = Pooling((3, 5), samples, aligned, STRIDES)
    levels = features()
    pooled = pool_regions(pooling, rows_of(levels), SIZES, rois, of_level, threads=3)
    expected = oracle(pooling, levels, rois, of_level)
    np.testing.assert_allclose(pooled.reshape(len(rois), -1, CHANNELS), expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("edges", [(0, 0, 72, 104), (-1, -1, 73, 105), (71.9, 103.9, 72, 104), (30, 40, 30, 40)])
def test_regions_on_the_border(edges):
    rois, of_level = np.array([[0, *edges], [1, *edges]], dtype=np.float32), np.array([0, 1])
    pooling = Pooling((7, 7), 0, True, STRIDES)
    levels = features()
    pooled = pool_regions(pooling, rows_of(levels), SIZES, rois, of_level, threads=3)
    expected = oracle(pooling, levels, rois, of_level)
    np.testing.assert_allclose(pooled.reshape(2, -1, CHANNELS), expected, rtol=0, atol=1e-5)


def test_no_region():
    pooling = Pooling((7, 7), 0, True, STRIDES)
    rois = np.empty((0, 5), dtype=np.float32)
    pooled = pool_regions(pooling, rows_of(features()), SIZES, rois, np.empty(0, dtype=np.int64))
    assert pooled.shape == (0, 49 * CHANNELS)


def test_a_weight_is_no_filling_zero():
    """Regions of many sizes share a matrix; each bin has about the cells it looks at, not those of the largest."""
    rois = np.array([[0, 0, 0, 14, 14], [0, 0, 0, 70, 100]], dtype=np.float32)
    weights, _ = pooling_weights(Pooling((7, 7), 0, True, STRIDES), SIZES, rois, np.array([0, 0]), 234 + 70)
    small, large = np.diff(weights.indptr).reshape(2, -1)[:, 0]
    assert small == 4
    assert large > 4
    np.testing.assert_allclose(weights.sum(axis=1), 1, atol=1e-6)
