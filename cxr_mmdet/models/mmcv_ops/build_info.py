"""Build information that mmcv's environment report prints about its operators."""

from __future__ import annotations

import torch
import torchvision

__all__ = ["get_compiler_version", "get_compiling_cuda_version"]


def get_compiler_version() -> str:
    """Return, in place of the compiler that built mmcv's operators, what stands in for them."""
    return f"none (cxr_mmdet on torchvision {torchvision.__version__})"


def get_compiling_cuda_version() -> str:
    """Return the CUDA version torch and torchvision were built with, or mmcv's own words for none."""
    return torch.version.cuda or "not available"
