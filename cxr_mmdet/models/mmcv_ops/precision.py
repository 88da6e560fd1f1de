"""The precision in which the operators compute."""

from __future__ import annotations

import torch
from torch import Tensor


def widen(tensor: Tensor) -> Tensor:
    """Return ``tensor`` in float64 if it is, else in float32: areas and coordinates overflow half precision."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()
