"""Deformable attention, CARAFE and masked convolution against loops and plain layers."""

import itertools
import math

import mmcv._ext
import pytest
import torch
from mmcv.ops import MaskedConv2d, MultiScaleDeformableAttention, carafe, carafe_naive
from mmcv.ops.multi_scale_deform_attn import MultiScaleDeformableAttnFunction
from torch.nn import functional

LEVELS = [(4, 5), (2, 3)]
STARTS = [0, 4 * 5]
BATCH, QUERIES, HEADS, POINTS, CHANNELS = 2, 3, 2, 2, 4


def attention_operands(device="cpu", dtype=torch.float64, queries=QUERIES):
    """Return value, shapes, starts, locations (some outside 0…1) and weights."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape):
        return torch.rand(*shape, generator=generator, dtype=torch.float64).to(device, dtype)

    cells = sum(height * width for height, width in LEVELS)
    return (
        random(BATCH, cells, HEADS, CHANNELS),
        torch.tensor(LEVELS, device=device),
        torch.tensor(STARTS, device=device),
        random(BATCH, queries, HEADS, len(LEVELS), POINTS, 2) * 1.4 - 0.2,
        random(BATCH, queries, HEADS, len(LEVELS), POINTS),
    )


def attend_by_loop(value, locations, weights):
    output = torch.zeros(BATCH, QUERIES, HEADS, CHANNELS, dtype=torch.float64)
    for n, q, h, level, p in itertools.product(*map(range, (BATCH, QUERIES, HEADS, len(LEVELS), POINTS))):
        height, width = LEVELS[level]
        x, y = (locations[n, q, h, level, p] * torch.tensor([width, height]) - 0.5).tolist()
        for row, column in itertools.product((math.floor(y), math.floor(y) + 1), (math.floor(x), math.floor(x) + 1)):
            if 0 <= row < height and 0 <= column < width:
                share = (1 - abs(y - row)) * (1 - abs(x - column)) * weights[n, q, h, level, p]
                output[n, q, h] += share * value[n, STARTS[level] + row * width + column, h]
    return output.flatten(2)


def test_attention_equals_loop(device):
    value, shapes, starts, locations, weights = attention_operands(device)
    attended = mmcv._ext.ms_deform_attn_forward(value, shapes, starts, locations, weights, im2col_step=64)
    torch.testing.assert_close(attended.cpu(), attend_by_loop(value.cpu(), locations.cpu(), weights.cpu()))


def test_attention_gradient(device):
    value, shapes, starts, locations, weights = attention_operands(device)

    def attend(value, locations, weights):
        return MultiScaleDeformableAttnFunction.apply(value, shapes, starts, locations, weights, 64)

    learnt = [tensor.requires_grad_() for tensor in (value, locations, weights)]
    assert torch.autograd.gradcheck(attend, learnt)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_attention_precisions(dtype, device):
    operands = attention_operands(device, dtype)
    attended = mmcv._ext.ms_deform_attn_forward(*operands, im2col_step=64)
    doubles = [tensor.double() if tensor.is_floating_point() else tensor for tensor in operands]
    expected = mmcv._ext.ms_deform_attn_forward(*doubles, im2col_step=64).to(dtype)
    assert attended.dtype == dtype
    torch.testing.assert_close(attended, expected)


def test_attention_without_queries():
    value, shapes, starts, locations, weights = attention_operands(queries=0)
    learnt = [tensor.requires_grad_() for tensor in (value, locations, weights)]
    attended = MultiScaleDeformableAttnFunction.apply(value, shapes, starts, locations, weights, 64)
    assert attended.shape == (BATCH, 0, HEADS * CHANNELS)
    attended.sum().backward()
    assert torch.equal(value.grad, torch.zeros_like(value))
    assert all(tensor.grad.shape == tensor.shape for tensor in learnt)


def test_attention_layer_runs_and_learns():
    layer = MultiScaleDeformableAttention(embed_dims=8, num_heads=HEADS, num_levels=2, num_points=POINTS)
    cells = sum(height * width for height, width in LEVELS)
    query, value = torch.randn(QUERIES, BATCH, 8), torch.randn(cells, BATCH, 8)
    attended = layer(
        query,
        value=value,
        reference_points=torch.rand(BATCH, QUERIES, 2, 2),
        spatial_shapes=torch.tensor(LEVELS),
        level_start_index=torch.tensor(STARTS),
    )
    assert attended.shape == query.shape
    attended.pow(2).sum().backward()
    assert layer.sampling_offsets.weight.grad.abs().sum() > 0


def carafe_operands(device="cpu", dtype=torch.float64, groups=2, kernel=3, scale=2):
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(2, 4, 3, 5, generator=generator, dtype=torch.float64)
    masks = torch.randn(2, groups * kernel**2, 3 * scale, 5 * scale, generator=generator, dtype=torch.float64)
    return features.to(device, dtype).requires_grad_(), masks.to(device, dtype).requires_grad_()


def carafe_by_upsampling(features, masks, kernel, groups, scale):
    """The definition by whole maps: every neighbour, enlarged without interpolation, times its share of the kernel."""
    output = torch.zeros(*features.shape[:2], *masks.shape[2:], dtype=features.dtype, device=features.device)
    padded = functional.pad(features, [kernel // 2] * 4)
    for channel, (ky, kx) in itertools.product(range(features.size(1)), itertools.product(range(kernel), repeat=2)):
        neighbour = padded[:, channel : channel + 1, ky : ky + features.size(2), kx : kx + features.size(3)]
        share = masks[:, channel // (features.size(1) // groups) * kernel**2 + ky * kernel + kx]
        output[:, channel] += functional.interpolate(neighbour, scale_factor=scale, mode="nearest")[:, 0] * share
    return output


@pytest.mark.parametrize("function", [carafe, carafe_naive])
@pytest.mark.parametrize(("kernel", "groups", "scale"), [(3, 2, 2), (5, 1, 3), (1, 4, 1)])
def test_carafe_equals_definition(kernel, groups, scale, function, device):
    features, masks = carafe_operands(device, groups=groups, kernel=kernel, scale=scale)
    expected = carafe_by_upsampling(features, masks, kernel, groups, scale)
    torch.testing.assert_close(function(features, masks, kernel, groups, scale), expected)


def test_carafe_gradient(device):
    features, masks = carafe_operands(device)
    expected = carafe_by_upsampling(features, masks, 3, 2, 2)
    upstream = torch.randn(expected.shape, dtype=torch.float64).to(device)
    gradients = torch.zeros_like(features), torch.zeros_like(masks)
    # Not by way of mmcv.ops.carafe, whose backward upstream asserts a CUDA tensor.
    scratch = [torch.zeros(0, device=device)] * 4
    geometry = {"kernel_size": 3, "group_size": 2, "scale_factor": 2}
    kept = torch.zeros_like(features)
    output = torch.zeros_like(expected)
    with torch.no_grad():
        mmcv._ext.carafe_forward(features, masks, kept, scratch[0], scratch[1], output, **geometry)
        mmcv._ext.carafe_backward(upstream, kept, masks, *scratch, *gradients, **geometry)
    torch.testing.assert_close(gradients, torch.autograd.grad(expected, [features, masks], upstream))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_carafe_half_precision(dtype, device):
    features, masks = (tensor.detach() for tensor in carafe_operands(device, dtype))
    output = torch.zeros(2, 4, 6, 10, dtype=dtype, device=device)
    with torch.autocast(device, dtype=torch.bfloat16):
        mmcv._ext.carafe_naive_forward(features, masks, output, kernel_size=3, group_size=2, scale_factor=2)
    torch.testing.assert_close(output, carafe_by_upsampling(features.double(), masks.double(), 3, 2, 2).to(dtype))


@pytest.mark.parametrize(("kernel", "padding"), [(3, 1), (1, 0), ((3, 5), (1, 2))])
def test_masked_convolution_is_a_convolution_where_chosen(kernel, padding, device):
    layer = MaskedConv2d(3, 4, kernel, padding=padding).double().to(device)
    features = torch.randn(1, 3, 6, 7, dtype=torch.float64, device=device)
    chosen = torch.rand(1, 6, 7, device=device) > 0.5
    expected = functional.conv2d(features, layer.weight, layer.bias, padding=padding) * chosen
    torch.testing.assert_close(layer(features, chosen.double()), expected)


def test_masked_convolution_of_nothing():
    layer = MaskedConv2d(3, 4, 3, padding=1)
    assert torch.equal(layer(torch.randn(1, 3, 6, 7), torch.zeros(1, 6, 7)), torch.zeros(1, 4, 6, 7))
    columns = torch.zeros(27, 0)
    nowhere = torch.zeros(0, dtype=torch.long)
    mmcv._ext.masked_im2col_forward(
        torch.randn(1, 3, 6, 7), nowhere, nowhere, columns, kernel_h=3, kernel_w=3, pad_h=1, pad_w=1
    )
    mmcv._ext.masked_col2im_forward(
        columns[:4], nowhere, nowhere, torch.zeros(1, 4, 6, 7), height=6, width=7, channels=4
    )
