"""Pooling of feature maps over regions of interest.

RoIs are (K, 5): index of the image in the batch, then x_min, y_min, x_max, y_max in pixels of the image, which
``spatial_scale`` turns into cells of the feature map. Features are (B, C, H, W), what is pooled (K, C, height, width).
"""

from __future__ import annotations

import math

import torch
import torchvision  # noqa: F401  (registers torch.ops.torchvision)
from torch import Tensor

from cxr_mmdet.models.mmcv_ops.precision import widen

__all__ = ["roi_align_backward", "roi_align_forward", "roi_pool_backward", "roi_pool_forward"]

_MAXIMUM = 0
_NOWHERE = -1


def roi_align_forward(
    features: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    *,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Fill ``output`` with the mean or the maximum of bilinear samples in each bin of each RoI.

    Args:
        features: (B, C, H, W).
        rois: (K, 5).
        output: (K, C, aligned_height, aligned_width).
        argmax_y: like ``output``, where the maximum was sampled, in cells, -1 for nowhere; unused by the mean.
        argmax_x: likewise.
        aligned_height: bins from top to bottom.
        aligned_width: bins from left to right.
        spatial_scale: cells per pixel.
        sampling_ratio: samples per bin and axis; 0 for about one per cell.
        pool_mode: 0 maximum, 1 mean.
        aligned: let cell centres stand at whole coordinates plus a half; else at whole ones, and no RoI is smaller
            than a cell.
    """
    features = widen(features)
    if pool_mode == _MAXIMUM:
        size_hw = (aligned_height, aligned_width)
        pooled, *peaks = _maximum_of_samples(features, rois, size_hw, spatial_scale, sampling_ratio, aligned)
        argmax_y.copy_(peaks[0])
        argmax_x.copy_(peaks[1])
    else:
        pooled = torch.ops.torchvision.roi_align(
            features, rois.to(features.dtype), spatial_scale, aligned_height, aligned_width, sampling_ratio, aligned
        )
    output.copy_(pooled)


def roi_align_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    grad_input: Tensor,
    *,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Fill ``grad_input`` (B, C, H, W), given ``grad_output`` (K, C, aligned_height, aligned_width)."""
    gradient = widen(grad_output)
    if pool_mode == _MAXIMUM:
        grad_input.copy_(_spread_to_corners(gradient, rois[:, 0], argmax_y, argmax_x, grad_input.shape))
        return
    grad_input.copy_(
        torch.ops.torchvision._roi_align_backward(
            gradient,
            rois.to(gradient.dtype),
            spatial_scale,
            aligned_height,
            aligned_width,
            *grad_input.shape,
            sampling_ratio,
            aligned,
        )
    )


def _maximum_of_samples(
    features: Tensor, rois: Tensor, size_hw: tuple[int, int], spatial_scale: float, sampling_ratio: int, aligned: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the largest sample of every bin (0 for a bin without one), and its y and x in cells."""
    output = features.new_zeros(rois.size(0), features.size(1), *size_hw)
    argmax_y, argmax_x = torch.full_like(output, _NOWHERE), torch.full_like(output, _NOWHERE)
    low = rois[:, 1:3].to(features.dtype) * spatial_scale - 0.5 * aligned
    extent = (rois[:, 3:5] - rois[:, 1:3]).to(features.dtype) * spatial_scale
    if not aligned:
        extent = extent.clamp(min=1)
    images = rois[:, 0].tolist()
    for k, ((low_x, low_y), (width, height)) in enumerate(zip(low.tolist(), extent.tolist(), strict=True)):
        y = _sample_axis(features, low_y, height, size_hw[0], sampling_ratio)
        x = _sample_axis(features, low_x, width, size_hw[1], sampling_ratio)
        if y.numel() * x.numel() == 0:
            continue
        # (bins_y, bins_x, samples_y · samples_x) coordinates.
        y, x = (axis.flatten(2) for axis in torch.broadcast_tensors(y[:, None, :, None], x[None, :, None, :]))
        corners, shares = _bilinear(y, x, features.size(2), features.size(3))
        samples = (features[int(images[k])].flatten(1)[:, corners] * shares).sum(dim=1)
        output[k], best = samples.max(dim=-1)
        argmax_y[k] = y.expand_as(samples).gather(-1, best[..., None]).squeeze(-1)
        argmax_x[k] = x.expand_as(samples).gather(-1, best[..., None]).squeeze(-1)
    return output, argmax_y, argmax_x


def _sample_axis(like: Tensor, low: float, extent: float, bins: int, sampling_ratio: int) -> Tensor:
    """Return the (bins, samples) coordinates along one axis of a RoI, evenly spread within each bin."""
    bin_size = extent / bins
    samples = sampling_ratio if sampling_ratio > 0 else max(math.ceil(bin_size), 0)
    starts = torch.arange(bins, dtype=like.dtype, device=like.device)[:, None] * bin_size
    within = (torch.arange(samples, dtype=like.dtype, device=like.device) + 0.5) * (bin_size / max(samples, 1))
    return low + starts + within


def _bilinear(y: Tensor, x: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Return the flat indices of the 4 cells around each point and their shares, both (4, *y.shape).

    A point up to one cell beyond the border takes the border's value; further out all shares are 0.
    """
    inside = (y >= -1) & (y <= height) & (x >= -1) & (x <= width)
    y, x = y.clamp(0, height - 1), x.clamp(0, width - 1)
    top, left = y.floor(), x.floor()
    bottom, right = (top + 1).clamp(max=height - 1), (left + 1).clamp(max=width - 1)
    down, across = y - top, x - left
    up, back = 1 - down, 1 - across
    rows, columns = torch.stack([top, top, bottom, bottom]), torch.stack([left, right, left, right])
    shares = torch.stack([up * back, up * across, down * back, down * across]) * inside
    return (rows * width + columns).long(), shares


def _spread_to_corners(gradient: Tensor, images: Tensor, y: Tensor, x: Tensor, shape: torch.Size) -> Tensor:
    """Return zeros of ``shape`` (B, C, H, W), plus each element of ``gradient`` at the 4 cells around its (y, x)."""
    corners, shares = _bilinear(y.to(gradient.dtype), x.to(gradient.dtype), shape[2], shape[3])
    planes = images.long()[:, None] * shape[1] + torch.arange(shape[1], device=images.device)
    indices = planes[:, :, None, None] * (shape[2] * shape[3]) + corners
    values = gradient * shares * (y != _NOWHERE)
    return gradient.new_zeros(shape).flatten().index_add_(0, indices.flatten(), values.flatten()).view(shape)


def roi_pool_forward(
    features: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax: Tensor,
    *,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
) -> None:
    """Fill ``output`` with the maximum of the cells each bin touches, 0 for a bin that touches none.

    Unlike torchvision's, mmcv's bins follow the RoI without rounding it to cells first; the last pixel counts whole.

    Args:
        features: (B, C, H, W).
        rois: (K, 5).
        output: (K, C, pooled_height, pooled_width).
        argmax: like ``output``, int32: the cell of the maximum as y · W + x, -1 for none.
        pooled_height: bins from top to bottom.
        pooled_width: bins from left to right.
        spatial_scale: cells per pixel.
    """
    features = widen(features)
    height, width = features.shape[-2:]
    low = rois[:, 1:3].to(features.dtype) * spatial_scale
    high = (rois[:, 3:5].to(features.dtype) + 1) * spatial_scale
    images = rois[:, 0].tolist()
    for k in range(rois.size(0)):
        rows = _cells_of_bins(low[k, 1], high[k, 1], pooled_height, height)
        columns = _cells_of_bins(low[k, 0], high[k, 0], pooled_width, width)
        rows, columns = (axis.flatten(2) for axis in torch.broadcast_tensors(rows[:, None, :, None], columns[:, None]))
        cells = torch.where((rows >= 0) & (columns >= 0), rows * width + columns, _NOWHERE)
        values = features[int(images[k])].flatten(1)[:, cells.clamp(min=0)]
        peak, best = values.masked_fill_(cells < 0, -torch.inf).max(dim=-1)
        argmax[k] = cells.expand_as(values).gather(-1, best[..., None]).squeeze(-1)
        output[k] = peak.masked_fill(argmax[k] < 0, 0)


def _cells_of_bins(low: Tensor, high: Tensor, bins: int, size: int) -> Tensor:
    """Return the (bins, most cells a bin) indices of the cells that each bin of ``low``…``high`` touches, else -1."""
    edges = torch.arange(bins + 1, dtype=low.dtype, device=low.device) * ((high - low) / bins) + low
    first = edges[:-1].floor().clamp(0, size).long()
    end = edges[1:].ceil().clamp(0, size).long()
    steps = torch.arange(max(int((end - first).max()), 1), device=low.device)
    cells = first[:, None] + steps
    return torch.where(cells < end[:, None], cells, _NOWHERE)


def roi_pool_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax: Tensor,
    grad_input: Tensor,
    *,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
) -> None:
    """Fill ``grad_input`` (B, C, H, W), given ``grad_output`` (K, C, pooled_height, pooled_width)."""
    gradient = widen(grad_output)
    grad_input.copy_(
        torch.ops.torchvision._roi_pool_backward(
            gradient,
            rois.to(gradient.dtype),
            argmax,
            spatial_scale,
            pooled_height,
            pooled_width,
            *grad_input.shape,
        )
    )
