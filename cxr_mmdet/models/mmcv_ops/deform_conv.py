"""Deformable convolutions: each kernel tap samples the input beside its place, at a learnt offset.

Version 1 (Dai et al., arXiv:1703.06211) has offsets only, version 2 (Zhu et al., arXiv:1811.11168) scales each sample
by a mask. Features are (B, C, H, W), the weight (out, C / groups, kernel_h, kernel_w), offsets
(B, offset_groups · kernel_h · kernel_w · 2, H', W') as (y, x) in cells, masks half of that.
"""

from __future__ import annotations

import weakref

import torch
import torchvision  # noqa: F401  (registers torch.ops.torchvision)
from torch import Tensor

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
    gradients = _gradients(grad_output, features, weight, offset, mask, bias if with_bias else None, numbers)
    destinations = [grad_input, grad_weight, grad_offset, grad_mask, grad_bias if with_bias else None]
    for destination, gradient in zip(destinations, gradients, strict=True):
        if destination is not None:
            destination.copy_(gradient)


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
    return torch.ops.torchvision._deform_conv2d_backward(widen(grad_output), *operands, *numbers, mask is not None)


def _operands(
    features: Tensor, weight: Tensor, offset: Tensor, mask: Tensor | None, bias: Tensor | None
) -> tuple[Tensor, ...]:
    features, weight, offset = widen(features), widen(weight), widen(offset)
    mask = features.new_zeros(features.size(0), 1) if mask is None else widen(mask)
    bias = features.new_zeros(weight.size(0)) if bias is None else widen(bias)
    return features, weight, offset, mask, bias
