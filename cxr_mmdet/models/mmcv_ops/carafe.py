"""Upsampling by a kernel of its own at every output cell (Wang et al., CARAFE, arXiv:1905.02188).

Features are (B, C, H, W), masks (B, groups · kernel², H · scale, W · scale): the kernels, row by row.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from cxr_mmdet.models.mmcv_ops.precision import widen

__all__ = ["carafe_backward", "carafe_forward", "carafe_naive_backward", "carafe_naive_forward"]


def carafe_naive_forward(
    features: Tensor, masks: Tensor, output: Tensor, *, kernel_size: int, group_size: int, scale_factor: int
) -> None:
    """Fill ``output`` (B, C, H · scale, W · scale).

    Args:
        features: (B, C, H, W).
        masks: the kernels.
        output: the upsampled features.
        kernel_size: width of the kernels, odd.
        group_size: number of channel groups, each with kernels of its own.
        scale_factor: output cells an input cell and axis.
    """
    output.copy_(_reassemble(widen(features), widen(masks), kernel_size, group_size, scale_factor))


def carafe_naive_backward(
    grad_output: Tensor,
    features: Tensor,
    masks: Tensor,
    grad_input: Tensor,
    grad_masks: Tensor,
    *,
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> None:
    """Fill the gradients of features and masks, by way of the forward computed again."""
    learnt = [widen(tensor).detach().requires_grad_() for tensor in (features, masks)]
    with torch.enable_grad():
        output = _reassemble(learnt[0], learnt[1], kernel_size, group_size, scale_factor)
        gradients = torch.autograd.grad(output, learnt, widen(grad_output))
    grad_input.copy_(gradients[0])
    grad_masks.copy_(gradients[1])


def carafe_forward(
    features: Tensor,
    masks: Tensor,
    rfeatures: Tensor,
    routput: Tensor,
    rmasks: Tensor,
    output: Tensor,
    **geometry: int,
) -> None:
    """Fill ``output`` as the naive form does; of mmcv's scratch tensors ``rfeatures`` reaches the backward."""
    rfeatures.copy_(features)
    carafe_naive_forward(features, masks, output, **geometry)


def carafe_backward(
    grad_output: Tensor,
    rfeatures: Tensor,
    masks: Tensor,
    rgrad_output: Tensor,
    rgrad_input_hs: Tensor,
    rgrad_input: Tensor,
    rgrad_masks: Tensor,
    grad_input: Tensor,
    grad_masks: Tensor,
    **geometry: int,
) -> None:
    """Fill the gradients of features and masks."""
    carafe_naive_backward(grad_output, rfeatures, masks, grad_input, grad_masks, **geometry)


def _reassemble(features: Tensor, masks: Tensor, kernel_size: int, groups: int, scale: int) -> Tensor:
    batch, channels, height, width = features.shape
    patches = functional.unfold(features, kernel_size, padding=kernel_size // 2)
    patches = patches.view(batch, groups, channels // groups, kernel_size**2, height, width)
    kernels = masks.view(batch, groups, kernel_size**2, height, scale, width, scale)
    # mmcv's kernels know no autocast: without this, the products would be taken in half precision.
    with torch.autocast(features.device.type, enabled=False):
        upsampled = torch.einsum("bgckhw,bgkhiwj->bgchiwj", patches, kernels)
    return upsampled.reshape(batch, channels, height * scale, width * scale)
