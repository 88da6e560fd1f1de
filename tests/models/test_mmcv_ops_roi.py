"""RoIAlign and RoIPool against loops over single samples and cells, and numerical differentiation."""

import math

import mmcv._ext
import pytest
import torch
from mmcv.ops import RoIAlign, RoIPool, roi_align, roi_pool

SCALE = 0.25
# Pixels of an image of 40 x 32: inside, over the border, beyond it, on whole cells, smaller than a cell.
ROIS = [
    [0, 3.0, 5.0, 27.0, 22.0],
    [1, -9.0, -6.0, 21.0, 13.0],
    [1, 25.0, 20.0, 52.0, 45.0],
    [0, 8.0, 8.0, 24.0, 24.0],
    [0, 10.0, 11.0, 11.0, 13.0],
    [1, 60.0, 60.0, 75.0, 75.0],
]


def features_and_rois(device="cpu", dtype=torch.float64):
    features = torch.randn(2, 3, 8, 10, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return features.to(device, dtype), torch.tensor(ROIS, dtype=dtype, device=device)


def bilinear(plane, y, x):
    height, width = plane.shape
    if not (-1 <= y <= height and -1 <= x <= width):
        return 0.0
    y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
    top, left = math.floor(y), math.floor(x)
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    upper = plane[top, left] * (left + 1 - x) + plane[top, right] * (x - left)
    lower = plane[bottom, left] * (left + 1 - x) + plane[bottom, right] * (x - left)
    return float(upper * (top + 1 - y) + lower * (y - top))


def roi_align_by_loop(features, rois, size_hw, sampling_ratio, pool, aligned):
    output = torch.zeros(len(rois), features.size(1), *size_hw, dtype=torch.float64)
    for k, (image, *corners) in enumerate(rois):
        x_min, y_min, x_max, y_max = (corner * SCALE - 0.5 * aligned for corner in corners)
        width, height = x_max - x_min, y_max - y_min
        if not aligned:
            width, height = max(width, 1), max(height, 1)
        bin_y, bin_x = height / size_hw[0], width / size_hw[1]
        count_y, count_x = (sampling_ratio or math.ceil(extent) for extent in (bin_y, bin_x))
        for c, plane in enumerate(features[image]):
            for i in range(size_hw[0]):
                for j in range(size_hw[1]):
                    samples = [
                        bilinear(
                            plane,
                            y_min + (i + (step_y + 0.5) / count_y) * bin_y,
                            x_min + (j + (step_x + 0.5) / count_x) * bin_x,
                        )
                        for step_y in range(count_y)
                        for step_x in range(count_x)
                    ]
                    output[k, c, i, j] = max(samples) if pool == "max" else sum(samples) / len(samples)
    return output


def roi_pool_by_loop(features, rois, size_hw):
    height, width = features.shape[2:]
    output = torch.zeros(len(rois), features.size(1), *size_hw, dtype=torch.float64)
    for k, (image, x_min, y_min, x_max, y_max) in enumerate(rois):
        x_min, y_min, x_max, y_max = x_min * SCALE, y_min * SCALE, (x_max + 1) * SCALE, (y_max + 1) * SCALE
        bin_y, bin_x = (y_max - y_min) / size_hw[0], (x_max - x_min) / size_hw[1]
        for i in range(size_hw[0]):
            for j in range(size_hw[1]):
                rows = range(max(math.floor(y_min + i * bin_y), 0), min(math.ceil(y_min + (i + 1) * bin_y), height))
                columns = range(max(math.floor(x_min + j * bin_x), 0), min(math.ceil(x_min + (j + 1) * bin_x), width))
                for c, plane in enumerate(features[image]):
                    cells = [float(plane[y, x]) for y in rows for x in columns]
                    output[k, c, i, j] = max(cells, default=0)
    return output


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("pool", ["avg", "max"])
@pytest.mark.parametrize("sampling_ratio", [0, 1, 2])
@pytest.mark.parametrize("size_hw", [(2, 2), (3, 2)])
def test_roi_align_equals_loop(size_hw, sampling_ratio, pool, aligned, device):
    features, rois = features_and_rois(device)
    module = RoIAlign(size_hw, SCALE, sampling_ratio, pool, aligned)
    expected = roi_align_by_loop(features.cpu(), ROIS, size_hw, sampling_ratio, pool, aligned)
    torch.testing.assert_close(module(features, rois).cpu(), expected)


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("pool", ["avg", "max"])
@pytest.mark.parametrize("sampling_ratio", [0, 2])
def test_roi_align_gradient(sampling_ratio, pool, aligned, device):
    features, rois = features_and_rois(device)
    module = RoIAlign((2, 3), SCALE, sampling_ratio, pool, aligned)
    assert torch.autograd.gradcheck(lambda x: module(x, rois), features[:, :1].contiguous().requires_grad_())


def test_roi_pool_equals_loop(device):
    features, rois = features_and_rois(device)
    pooled = RoIPool((3, 2), SCALE)(features, rois)
    torch.testing.assert_close(pooled.cpu(), roi_pool_by_loop(features.cpu(), ROIS, (3, 2)))


def test_roi_pool_gradient(device):
    features, rois = features_and_rois(device)
    module = RoIPool((3, 2), SCALE)
    assert torch.autograd.gradcheck(lambda x: module(x, rois), features[:, :1].contiguous().requires_grad_())


def test_roi_pool_remembers_the_cell():
    features, rois = features_and_rois()
    output, argmax = torch.zeros(6, 3, 2, 2, dtype=torch.float64), torch.zeros(6, 3, 2, 2, dtype=torch.int)
    mmcv._ext.roi_pool_forward(features, rois, output, argmax, pooled_height=2, pooled_width=2, spatial_scale=SCALE)
    assert (argmax[-1] == -1).all()  # the RoI beyond the border
    for k in range(5):
        flat = features[ROIS[k][0]].flatten(1)
        found = argmax[k] >= 0
        remembered = flat.gather(1, argmax[k].flatten(1).clamp(min=0).long()).view(3, 2, 2)
        assert torch.equal(output[k][found], remembered[found])


@pytest.mark.parametrize("function", [roi_pool, lambda *a: roi_align(*a, 0, "max", True)], ids=["pool", "align"])
def test_malformed_roi_has_neither_value_nor_gradient(function):
    features, _ = features_and_rois()
    features.requires_grad_()
    pooled = function(features, torch.tensor([[0, 20.0, 20, 4, 4]], dtype=torch.float64), 2, SCALE)
    assert torch.equal(pooled, torch.zeros(1, 3, 2, 2, dtype=torch.float64))
    pooled.sum().backward()
    assert features.grad.abs().sum() == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("layer", [RoIAlign(2, SCALE), RoIAlign(2, SCALE, pool_mode="max"), RoIPool(2, SCALE)])
def test_precisions(layer, dtype, device):
    features, rois = features_and_rois(device, dtype)
    features.requires_grad_()
    pooled = layer(features, rois)
    assert pooled.dtype == dtype
    # The coordinates of the fixture are exact in every precision, so only the result is rounded.
    torch.testing.assert_close(pooled, layer(features.double(), rois.double()).to(dtype))
    pooled.sum().backward()
    assert features.grad.dtype == dtype
    assert features.grad.abs().sum() > 0


@pytest.mark.parametrize("layer", [RoIAlign(2, SCALE), RoIAlign(2, SCALE, pool_mode="max"), RoIPool(2, SCALE)])
def test_no_rois(layer, device):
    features, rois = features_and_rois(device)
    features.requires_grad_()
    pooled = layer(features, rois[:0])
    assert pooled.shape == (0, 3, 2, 2)
    pooled.sum().backward()
    assert torch.equal(features.grad, torch.zeros_like(features))


def test_gradient_of_a_transposed_map():
    features, rois = features_and_rois()
    features.requires_grad_()
    for layer in (RoIAlign(2, SCALE), RoIAlign(2, SCALE, pool_mode="max"), RoIPool(2, SCALE)):
        (expected,) = torch.autograd.grad(layer(features, rois).pow(2).sum(), features)
        weighted = layer(features.transpose(2, 3).contiguous().transpose(2, 3), rois)
        (gradient,) = torch.autograd.grad(weighted.pow(2).sum(), features)
        torch.testing.assert_close(gradient, expected)
