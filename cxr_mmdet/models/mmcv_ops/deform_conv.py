"""Deformable convolutions: each kernel tap samples the input beside its place, at a learnt offset.

Version 1 (Dai et al., arXiv:1703.06211) has offsets only, version 2 (Zhu et al., arXiv:1811.11168) scales each sample
by a mask. Features are (B, C, H, W), the weight (out, C / groups, kernel_h, kernel_w), offsets
(B, offset_groups · kernel_h · kernel_w · 2, H', W') as (y, x) in cells, masks half of that. Version 2 also takes
offsets and masks larger than the output, and reads them as mmcv's kernels do: see :func:`_read_as_mmcv`.
"""

from __future__ import annotations

import weakref

import torch
import torchvision  # noqa: F401  (registers torch.ops.torchvision)
from torch import Tensor
from torch.nn import functional

from cxr_mmdet.models.mmcv_ops.precision import widen

__all__ = [
    "deform_conv_backward_input",
    "deform_conv_backward_parameters",
    "deform_conv_forward",
    "modulated_deform_conv_backward",
    "modulated_deform_conv_forward",
]

_V1_GEOMETRY = ("dH", "dW", "padH", "padW", "dilationH", "dilationW", "group", "deformable_group")
_V2_GEOMETRY = ("stride_h", "stride_w", "pad_h", "pad_w", "dilation_h", "dilation_w", "group", "deformable_group")


def deform_conv_forward(
    features: Tensor, weight: Tensor, offset: Tensor, output: Tensor, columns: Tensor, ones: Tensor, **geometry: int
) -> None:
    """Fill ``output`` with the convolution; ``columns`` and ``ones`` are mmcv's scratch space, not needed here."""
    output.copy_(_convolve(features, weight, offset, None, None, [geometry[name] for name in _V1_GEOMETRY]))


def deform_conv_backward_input(
    features: Tensor,
    offset: Tensor,
    grad_output: Tensor,
    grad_input: Tensor,
    grad_offset: Tensor,
    weight: Tensor,
    columns: Tensor,
    **geometry: int,
) -> None:
    """Fill the gradients of features and offsets, and keep the weight's with ``columns`` for the call that follows."""
    numbers = [geometry[name] for name in _V1_GEOMETRY]
    by_input, by_weight, by_offset, *_ = _gradients(grad_output, features, weight, offset, None, None, numbers)
    grad_input.copy_(by_input)
    grad_offset.copy_(by_offset)
    # torchvision computes all gradients at once, mmcv asks in two calls that share nothing but this scratch tensor.
    columns.weight_gradient = (weakref.ref(grad_output), grad_output._version, by_weight)  # type: ignore[attr-defined]


def deform_conv_backward_parameters(
    features: Tensor,
    offset: Tensor,
    grad_output: Tensor,
    grad_weight: Tensor,
    columns: Tensor,
    ones: Tensor,
    *,
    scale: float,
    **geometry: int,
) -> None:
    """Add ``scale`` times the gradient of the weight to ``grad_weight``."""
    source, version, by_weight = columns.__dict__.pop("weight_gradient", (lambda: None, None, None))
    if source() is not grad_output or version != grad_output._version:
        numbers = [geometry[name] for name in _V1_GEOMETRY]
        # The weight's values do not matter for its own gradient.
        _, by_weight, *_ = _gradients(grad_output, features, grad_weight, offset, None, None, numbers)
    grad_weight.add_(by_weight, alpha=scale)


def modulated_deform_conv_forward(
    features: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    output: Tensor,
    columns: Tensor,
    *,
    with_bias: bool,
    **geometry: int,
) -> None:
    """Fill ``output`` with the convolution of the masked samples, plus ``bias`` (out,) when ``with_bias``."""
    numbers = [geometry[name] for name in _V2_GEOMETRY]
    offset, mask = (_read_as_mmcv(values, output) for values in (offset, mask))
    output.copy_(_convolve(features, weight, offset, mask, bias if with_bias else None, numbers))


def modulated_deform_conv_backward(
    features: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    columns: Tensor,
    grad_input: Tensor,
    grad_weight: Tensor,
    grad_bias: Tensor,
    grad_offset: Tensor,
    grad_mask: Tensor,
    grad_output: Tensor,
    *,
    with_bias: bool,
    **geometry: int,
) -> None:
    """Fill the gradients of everything that is learnt."""
    numbers = [geometry[name] for name in _V2_GEOMETRY]
    offset, mask = (_read_as_mmcv(values, grad_output) for values in (offset, mask))
    gradients = _gradients(grad_output, features, weight, offset, mask, bias if with_bias else None, numbers)
    destinations = [grad_input, grad_weight, grad_offset, grad_mask, grad_bias if with_bias else None]
    for destination, gradient in zip(destinations, gradients, strict=True):
        if destination is None:
            continue
        if destination.shape != gradient.shape:  # values that the forward pass did not read
            unread = destination[0].numel() - gradient[0].numel()
            gradient = functional.pad(gradient.flatten(1), (0, unread)).view(destination.shape)
        destination.copy_(gradient)


def _read_as_mmcv(values: Tensor, output: Tensor) -> Tensor:
    """Return offsets or masks (B, C, H, W) as mmcv reads them for an output (B, out, H', W'): (B, C, H', W').

    mmcv's kernels of version 2 never look at H and W. Each image's values are a flat array from which they take the
    first C · H' · W' as (C, H', W'). mmdet's DyHead relies on it: it hands the offsets of one pyramid level to the
    convolution of the next smaller one, and its published weights were trained so. Smaller offsets, where mmcv reads
    beyond the array, are left for torchvision to refuse.
    """
    height, width = output.shape[2:]
    if values.shape[2:] == output.shape[2:] or values.shape[2] * values.shape[3] < height * width:
        return values
    return values.flatten(1)[:, : values.size(1) * height * width].reshape(*values.shape[:2], height, width)


def _convolve(
    features: Tensor, weight: Tensor, offset: Tensor, mask: Tensor | None, bias: Tensor | None, numbers: list[int]
) -> Tensor:
    operands = _operands(features, weight, offset, mask, bias)
    return torch.ops.torchvision.deform_conv2d(*operands, *numbers, mask is not None)


def _gradients(
    grad_output: Tensor,
    features: Tensor,
    weight: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    bias: Tensor | None,
    numbers: list[int],
) -> tuple[Tensor, ...]:
    """Return the gradients of features, weight, offset, mask and bias."""
    operands = _operands(features, weight, offset, mask, bias)
    gradients = torch.ops.torchvision._deform_conv2d_backward(widen(grad_output), *operands, *numbers, mask is not None)
    _stop_before_the_border(gradients[2], operands[2], weight, numbers)
    return tuple(gradients)


def _stop_before_the_border(by_offset: Tensor, offset: Tensor, weight: Tensor, numbers: list[int]) -> None:
    """Zero the offset gradient of points exactly one cell before the first row or column, in place.

    Such a point's sample is 0 and rises only inwards. mmcv gives 0 there, as both libraries do one cell behind the last
    row or column; torchvision gives the slope inwards. It matters where training begins: a layer with padding starts
    with offsets of 0, so that its outer taps lie exactly there.
    """
    *steps, _, offset_groups = numbers
    shape = (offset_groups, *weight.shape[2:], 2)
    gradients, offsets = (values.unflatten(1, shape) for values in (by_offset, offset))
    for axis in (0, 1):
        stride, padding, dilation = steps[axis::2]
        taps = dilation * torch.arange(weight.size(2 + axis), device=offset.device)
        starts = stride * torch.arange(offset.size(2 + axis), device=offset.device) - padding
        grid = taps[:, None] + starts  # (kernel, output) along this axis
        grid = grid[:, None, :, None] if axis == 0 else grid[None, :, None, :]
        gradients[:, :, :, :, axis].masked_fill_(offsets[:, :, :, :, axis] + grid == -1, 0)


def _operands(
    features: Tensor, weight: Tensor, offset: Tensor, mask: Tensor | None, bias: Tensor | None
) -> tuple[Tensor, ...]:
    features, weight, offset = widen(features), widen(weight), widen(offset)
    mask = features.new_zeros(features.size(0), 1) if mask is None else widen(mask)
    bias = features.new_zeros(weight.size(0)) if bias is None else widen(bias)
    return features, weight, offset, mask, bias
