"""Deformable attention over several feature maps (Zhu et al., Deformable DETR, arXiv:2010.04159).

Values are (B, sum of H · W over the levels, heads, channels), sampling locations (B, queries, heads, levels, points, 2)
as (x, y) in 0…1 of their level; attention weights lack the last axis.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cxr_mmdet.models.mmcv_ops.precision import widen

__all__ = ["ms_deform_attn_backward", "ms_deform_attn_forward"]


def ms_deform_attn_forward(
    value: Tensor,
    value_spatial_shapes: Tensor,
    value_level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    *,
    im2col_step: int,
) -> Tensor:
    """Return the (B, queries, heads · channels) weighted sums of bilinear samples.

    Args:
        value: values at the cells of all levels, one level after the other.
        value_spatial_shapes: (levels, 2) int64 height and width.
        value_level_start_index: (levels,), which follows from the shapes.
        sampling_locations: where to sample.
        attention_weights: the samples' weights.
        im2col_step: ignored.
    """
    attended = _attend(widen(value), value_spatial_shapes.tolist(), widen(sampling_locations), widen(attention_weights))
    return attended.to(value.dtype)


def ms_deform_attn_backward(
    value: Tensor,
    value_spatial_shapes: Tensor,
    value_level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    grad_output: Tensor,
    grad_value: Tensor,
    grad_sampling_loc: Tensor,
    grad_attn_weight: Tensor,
    *,
    im2col_step: int,
) -> None:
    """Fill the gradients of values, locations and weights, by way of the forward computed again."""
    learnt = [widen(tensor).detach().requires_grad_() for tensor in (value, sampling_locations, attention_weights)]
    with torch.enable_grad():
        attended = _attend(learnt[0], value_spatial_shapes.tolist(), learnt[1], learnt[2])
        gradients = torch.autograd.grad(attended, learnt, widen(grad_output))
    for destination, gradient in zip((grad_value, grad_sampling_loc, grad_attn_weight), gradients, strict=True):
        destination.copy_(gradient)


def _attend(value: Tensor, shapes: list[list[int]], locations: Tensor, weights: Tensor) -> Tensor:
    # mmcv's own torch form, which cannot be imported earlier: its module asks for the operators being defined here.
    from mmcv.ops.multi_scale_deform_attn import multi_scale_deformable_attn_pytorch

    return multi_scale_deformable_attn_pytorch(value, shapes, locations, weights)
