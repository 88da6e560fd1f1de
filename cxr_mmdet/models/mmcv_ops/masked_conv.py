"""Convolution at chosen places only: gathering the patches, scattering the results."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["masked_col2im_forward", "masked_im2col_forward"]


def masked_im2col_forward(
    image: Tensor,
    mask_h_idx: Tensor,
    mask_w_idx: Tensor,
    col: Tensor,
    *,
    kernel_h: int,
    kernel_w: int,
    pad_h: int,
    pad_w: int,
) -> None:
    """Fill ``col`` (C · kernel_h · kernel_w, N) with the patches under the kernel at the N chosen places.

    Args:
        image: (1, C, H, W).
        mask_h_idx: (N,) int64 rows of the places in the output.
        mask_w_idx: (N,) their columns.
        col: output.
        kernel_h: kernel height.
        kernel_w: kernel width.
        pad_h: zeros above and below.
        pad_w: zeros left and right.
    """
    padded = functional.pad(image[0], (pad_w, pad_w, pad_h, pad_h))
    rows = torch.arange(kernel_h, device=image.device)[:, None, None] + mask_h_idx
    columns = torch.arange(kernel_w, device=image.device)[:, None] + mask_w_idx
    col.copy_(padded[:, rows, columns].flatten(0, 2))


def masked_col2im_forward(
    col: Tensor, mask_h_idx: Tensor, mask_w_idx: Tensor, image: Tensor, *, height: int, width: int, channels: int
) -> None:
    """Write column n of ``col`` (channels, N) to place n of ``image`` (1, channels, height, width)."""
    image[0, :, mask_h_idx, mask_w_idx] = col
