"""Deformable convolutions against ordinary ones, a loop over single samples, and numerical differentiation."""

import itertools
import math

import mmcv._ext
import pytest
import torch
from mmcv.ops import (
    DeformConv2d,
    DeformConv2dPack,
    ModulatedDeformConv2d,
    ModulatedDeformConv2dPack,
    deform_conv2d,
    modulated_deform_conv2d,
)
from torch.nn import functional

# stride, padding, dilation, groups, offset groups
GEOMETRIES = [(1, 1, 1, 1, 1), (2, 0, 1, 2, 1), (1, 2, 2, 1, 2), ((1, 2), (0, 1), (2, 1), 2, 4)]


def operands(geometry, batch=2, kernel=(3, 2), device="cpu", dtype=torch.float64):
    """Return features, offsets, masks, weight and bias for a convolution from 4 to 6 channels."""
    stride, padding, dilation, groups, offset_groups = geometry
    generator = torch.Generator().manual_seed(0)

    def random(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(device, dtype)

    features, weight, bias = random(batch, 4, 7, 8), random(6, 4 // groups, *kernel), random(6)
    spread = functional.conv2d(features, weight, None, stride, padding, dilation, groups).shape[2:]
    taps = offset_groups * kernel[0] * kernel[1]
    return features, 1.5 * random(batch, 2 * taps, *spread), random(batch, taps, *spread).sigmoid(), weight, bias


def bilinear(plane, y, x):
    height, width = plane.shape
    top, left = math.floor(y), math.floor(x)
    value = 0.0
    for row, column in itertools.product((top, top + 1), (left, left + 1)):
        if 0 <= row < height and 0 <= column < width:
            value += float(plane[row, column]) * (1 - abs(y - row)) * (1 - abs(x - column))
    return value


def convolve_by_loop(features, offset, mask, weight, bias, geometry):
    stride, padding, dilation = (value if isinstance(value, tuple) else (value, value) for value in geometry[:3])
    groups, offset_groups = geometry[3:]
    batch, out_height, out_width = offset.size(0), *offset.shape[2:]
    kernel_h, kernel_w = weight.shape[2:]
    output = bias[None, :, None, None].repeat(batch, 1, out_height, out_width)
    for n, o, i, j, c, ky, kx in itertools.product(
        *(range(size) for size in (batch, weight.size(0), out_height, out_width, weight.size(1), kernel_h, kernel_w))
    ):
        channel = o // (weight.size(0) // groups) * weight.size(1) + c
        tap = channel // (features.size(1) // offset_groups) * kernel_h * kernel_w + ky * kernel_w + kx
        y = i * stride[0] - padding[0] + ky * dilation[0] + float(offset[n, 2 * tap, i, j])
        x = j * stride[1] - padding[1] + kx * dilation[1] + float(offset[n, 2 * tap + 1, i, j])
        output[n, o, i, j] += weight[o, c, ky, kx] * mask[n, tap, i, j] * bilinear(features[n, channel], y, x)
    return output


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_version_1_equals_loop(geometry, device):
    features, offset, mask, weight, _ = operands(geometry, batch=1, kernel=(2, 2))
    expected = convolve_by_loop(features, offset, torch.ones_like(mask), weight, torch.zeros(6).double(), geometry)
    output = deform_conv2d(features.to(device), offset.to(device), weight.to(device), *geometry)
    torch.testing.assert_close(output.cpu(), expected)


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_version_2_equals_loop(geometry, device):
    tensors = operands(geometry, batch=1, kernel=(2, 2))
    expected = convolve_by_loop(*tensors, geometry)
    output = modulated_deform_conv2d(*(tensor.to(device) for tensor in tensors), *geometry)
    torch.testing.assert_close(output.cpu(), expected)


@pytest.mark.parametrize("geometry", GEOMETRIES[:3])
@pytest.mark.parametrize("im2col_step", [1, 2, 32])
def test_without_offsets_it_is_a_convolution(geometry, im2col_step):
    features, offset, mask, weight, bias = operands(geometry)
    still = torch.zeros_like(offset)
    expected = functional.conv2d(features, weight, None, *geometry[:4])
    torch.testing.assert_close(deform_conv2d(features, still, weight, *geometry, False, im2col_step), expected)
    half = modulated_deform_conv2d(features, still, torch.full_like(mask, 0.5), weight, bias, *geometry)
    torch.testing.assert_close(half, expected / 2 + bias[:, None, None])
    unbiased = modulated_deform_conv2d(features, still, torch.ones_like(mask), weight, None, *geometry)
    torch.testing.assert_close(unbiased, expected)


@pytest.mark.parametrize("geometry", GEOMETRIES[1:])
def test_version_1_gradient(geometry, device):
    features, offset, _, weight, _ = operands(geometry, batch=1, kernel=(2, 2), device=device)
    learnt = [tensor.requires_grad_() for tensor in (features, offset, weight)]
    assert torch.autograd.gradcheck(lambda *tensors: deform_conv2d(*tensors, *geometry), learnt)


@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("geometry", GEOMETRIES[1:])
def test_version_2_gradient(geometry, with_bias, device):
    tensors = operands(geometry, batch=1, kernel=(2, 2), device=device)
    learnt = [tensor.requires_grad_() for tensor in (tensors if with_bias else tensors[:4])]

    def convolve(features, offset, mask, weight, bias=None):
        return modulated_deform_conv2d(features, offset, mask, weight, bias, *geometry)

    assert torch.autograd.gradcheck(convolve, learnt)


def test_weight_alone_has_the_same_gradient():
    features, offset, _, weight, _ = operands(GEOMETRIES[0])
    learnt = [tensor.requires_grad_() for tensor in (features, offset, weight)]
    output = deform_conv2d(*learnt, *GEOMETRIES[0])
    together = torch.autograd.grad(output, learnt, torch.ones_like(output))
    alone = deform_conv2d(features.detach(), offset.detach(), weight, *GEOMETRIES[0]).sum()
    torch.testing.assert_close(torch.autograd.grad(alone, weight)[0], together[2])


def test_weight_gradient_is_never_that_of_an_earlier_backward():
    features, offset, _, weight, _ = operands(GEOMETRIES[0])
    geometry = {"kH": 3, "kW": 2, "dH": 1, "dW": 1, "padH": 1, "padW": 1, "dilationH": 1, "dilationW": 1}
    geometry |= {"group": 1, "deformable_group": 1, "im2col_step": 2}
    generator = torch.Generator().manual_seed(1)
    first, second = (torch.randn(2, 6, *offset.shape[2:], generator=generator, dtype=torch.float64) for _ in range(2))

    def by_weight(upstream, scratch):
        gradient = torch.zeros_like(weight)
        mmcv._ext.deform_conv_backward_parameters(
            features, offset, upstream, gradient, scratch, scratch, scale=1, **geometry
        )
        return gradient

    def by_input(upstream, scratch):
        gradients = torch.zeros_like(features), torch.zeros_like(offset)
        mmcv._ext.deform_conv_backward_input(features, offset, upstream, *gradients, weight, scratch, **geometry)

    scratch = torch.zeros(0)
    expected = by_weight(second, torch.zeros(0))
    by_input(first, scratch)
    torch.testing.assert_close(by_weight(second, scratch), expected)  # of another output gradient
    by_input(first, scratch)
    first.copy_(second)
    torch.testing.assert_close(by_weight(first, scratch), expected)  # of one that changed since
    by_input(second, scratch)
    torch.testing.assert_close(by_weight(second, scratch), expected)  # kept
    torch.testing.assert_close(by_weight(second, scratch), expected)  # and used up


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_precisions(dtype, device):
    tensors = [tensor.requires_grad_() for tensor in operands(GEOMETRIES[2], device=device, dtype=dtype)]
    features, offset, _, weight, _ = tensors
    doubles = [tensor.detach().double() for tensor in tensors]
    plain = deform_conv2d(features, offset, weight, *GEOMETRIES[2])
    modulated = modulated_deform_conv2d(*tensors, *GEOMETRIES[2])
    assert plain.dtype == modulated.dtype == dtype
    close = {"rtol": 2 * torch.finfo(dtype).eps, "atol": 1e-5}
    expected = deform_conv2d(doubles[0], doubles[1], doubles[3], *GEOMETRIES[2]).to(dtype)
    torch.testing.assert_close(plain, expected, **close)
    torch.testing.assert_close(modulated, modulated_deform_conv2d(*doubles, *GEOMETRIES[2]).to(dtype), **close)
    (plain.sum() + modulated.sum()).backward()
    assert all(tensor.grad.dtype == dtype and tensor.grad.isfinite().all() for tensor in tensors)


@pytest.mark.parametrize("layer", [DeformConv2dPack(4, 6, 3, padding=1), ModulatedDeformConv2dPack(4, 6, 3, padding=1)])
def test_packed_layers_learn_their_offsets(layer):
    features = torch.randn(2, 4, 7, 8)
    out = layer(features)
    assert out.shape == (2, 6, 7, 8)
    out.pow(2).sum().backward()
    assert layer.conv_offset.weight.grad.abs().sum() > 0
    assert layer.weight.grad.abs().sum() > 0


def test_layer_on_a_map_smaller_than_its_kernel():
    layer = DeformConv2d(4, 6, 3, padding=1).double()
    features = torch.randn(1, 4, 2, 2, dtype=torch.float64)
    still = torch.zeros(1, 18, 2, 2, dtype=torch.float64)
    torch.testing.assert_close(layer(features, still), functional.conv2d(features, layer.weight, padding=1))


def test_modulated_layer_has_a_bias():
    layer = ModulatedDeformConv2d(4, 6, 3, padding=1).double()
    layer.bias.data.copy_(torch.arange(6))
    out = layer(torch.zeros(1, 4, 5, 5).double(), torch.zeros(1, 18, 5, 5).double(), torch.ones(1, 9, 5, 5).double())
    torch.testing.assert_close(out, torch.arange(6).double()[None, :, None, None].expand(1, 6, 5, 5))


def test_empty_batch(device):
    # Of the operators themselves: mmcv's wrappers refuse it.
    tensors = features, offset, mask, weight, bias = operands((1, 1, 1, 1, 1), batch=0, kernel=(3, 3), device=device)
    output, scratch = features.new_zeros(0, 6, 7, 8), features.new_empty(0)
    square = {"kH": 3, "kW": 3, "dH": 1, "dW": 1, "padH": 1, "padW": 1, "dilationH": 1, "dilationW": 1}
    square |= {"group": 1, "deformable_group": 1, "im2col_step": 1}
    mmcv._ext.deform_conv_forward(features, weight, offset, output, scratch, scratch, **square)
    by_features, by_weight, by_offset, by_mask, by_bias = (torch.zeros_like(tensors[i]) for i in (0, 3, 1, 2, 4))
    mmcv._ext.deform_conv_backward_input(features, offset, output, by_features, by_offset, weight, scratch, **square)
    mmcv._ext.deform_conv_backward_parameters(features, offset, output, by_weight, scratch, scratch, scale=1, **square)
    square = {"stride_h": 1, "stride_w": 1, "pad_h": 1, "pad_w": 1, "dilation_h": 1, "dilation_w": 1}
    square |= {"kernel_h": 3, "kernel_w": 3, "group": 1, "deformable_group": 1, "with_bias": True}
    mmcv._ext.modulated_deform_conv_forward(features, weight, bias, scratch, offset, mask, output, scratch, **square)
    gradients = by_features, by_weight, by_bias, by_offset, by_mask
    mmcv._ext.modulated_deform_conv_backward(
        features, weight, bias, scratch, offset, mask, scratch, *gradients, output, **square
    )
    assert not any(gradient.any() for gradient in gradients)


def read_by_loop(values, batch, channels, height, width):
    """Return offsets or masks as mmcv's kernels index them: into an image's memory, by the output's size."""
    read = torch.zeros(batch, channels, height, width, dtype=values.dtype)
    for n in range(batch):
        memory = values[n].flatten().tolist()
        for channel, row, column in itertools.product(range(channels), range(height), range(width)):
            read[n, channel, row, column] = memory[(channel * height + row) * width + column]
    return read


def larger_operands(geometry):
    """Return operands whose offsets and masks are twice as large as the output, and what mmcv reads of them."""
    features, offset, mask, weight, bias = operands(geometry, kernel=(2, 2))
    generator = torch.Generator().manual_seed(1)
    batch, _, height, width = offset.shape
    large = [
        torch.randn(batch, small.size(1), 2 * height, 2 * width + 1, generator=generator, dtype=torch.float64)
        for small in (offset, mask)
    ]
    read = [read_by_loop(values, batch, values.size(1), height, width) for values in large]
    return [features, *large, weight, bias], [features, *read, weight, bias]


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_larger_offsets_and_masks_are_read_as_mmcv_reads_them(geometry):
    """DyHead hands over those of the next larger pyramid level."""
    large, read = larger_operands(geometry)
    output = modulated_deform_conv2d(*large, *geometry)
    torch.testing.assert_close(output, convolve_by_loop(*read, geometry))
    channels_last = [tensor.to(memory_format=torch.channels_last) for tensor in large[:3]]
    assert torch.equal(modulated_deform_conv2d(*channels_last, *large[3:], *geometry), output)


def test_values_that_were_not_read_have_no_gradient():
    geometry = GEOMETRIES[1]
    large, read = ([tensor.requires_grad_() for tensor in tensors] for tensors in larger_operands(geometry))
    upstream = torch.randn(modulated_deform_conv2d(*read, *geometry).shape, dtype=torch.float64)
    by_large, by_read = (
        torch.autograd.grad(modulated_deform_conv2d(*tensors, *geometry), tensors, upstream)
        for tensors in (large, read)
    )
    for index, (gradient, expected) in enumerate(zip(by_large, by_read, strict=True)):
        if index in (1, 2):
            count = expected[0].numel()
            assert torch.equal(gradient.flatten(1)[:, :count], expected.flatten(1))
            assert not gradient.flatten(1)[:, count:].any()
        else:
            assert torch.equal(gradient, expected)


def test_dyhead_of_mmdet_trains():
    from mmdet.models.necks import DyHead

    neck = DyHead(in_channels=16, out_channels=16, num_blocks=1)
    maps = [torch.randn(2, 16, size, size) for size in (12, 6, 3)]
    outs = neck(maps)
    assert [out.shape for out in outs] == [level.shape for level in maps]
    sum(out.pow(2).sum() for out in outs).backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in neck.parameters())


def test_smaller_offsets_are_refused():
    features, offset, mask, weight, bias = operands(GEOMETRIES[0])
    with pytest.raises(RuntimeError, match="offset"):
        modulated_deform_conv2d(features, offset[:, :, :-1], mask, weight, bias, *GEOMETRIES[0])


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_points_exactly_one_cell_outside_have_no_offset_gradient(geometry, device):
    """As mmcv has it: in version 1 and 2, on all four sides; elsewhere the slope towards larger coordinates."""
    features, offset, mask, weight, bias = (tensor.to(device) for tensor in operands(geometry))
    stride, padding, dilation = (value if isinstance(value, tuple) else (value, value) for value in geometry[:3])
    still = torch.zeros_like(offset)
    upstream = torch.randn(modulated_deform_conv2d(features, still, mask, weight, bias, *geometry).shape).to(features)

    def gradients(shift):
        moved = (still + shift).requires_grad_()
        plain = deform_conv2d(features, moved, weight, *geometry)
        modulated = modulated_deform_conv2d(features, moved, mask, weight, bias, *geometry)
        return [torch.autograd.grad(out, moved, upstream)[0] for out in (plain, modulated)]

    for exact, beside in zip(gradients(0.0), gradients(1e-9), strict=True):
        shape = (geometry[4], *weight.shape[2:], 2)
        exact, beside = (gradient.unflatten(1, shape).cpu() for gradient in (exact, beside))
        for axis, ky, kx, row, column in itertools.product(range(2), *map(range, [*shape[1:3], *offset.shape[2:]])):
            at = (slice(None), slice(None), ky, kx, axis, row, column)
            place = (row, column)[axis] * stride[axis] - padding[axis] + (ky, kx)[axis] * dilation[axis]
            if place == -1:
                assert not exact[at].any()
            else:
                torch.testing.assert_close(exact[at], beside[at], atol=1e-6, rtol=1e-6)
