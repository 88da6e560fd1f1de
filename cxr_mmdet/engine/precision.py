"""Mixed precision on a CPU, which mmengine's wrapper refuses."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from mmdet.registry import OPTIM_WRAPPERS
from mmengine.optim import OptimWrapper

if TYPE_CHECKING:
    from collections.abc import Iterator


@OPTIM_WRAPPERS.register_module()
class CpuAmpOptimWrapper(OptimWrapper):
    """Compute convolutions and products in bfloat16, on the CPU; weights, their updates and norms stay in float32.

    bfloat16 has float32's range, so that the loss needs no scaling. It is fast where the processor multiplies it
    (AVX-512 BF16, AMX) and slow elsewhere: see :func:`has_fast_bfloat16`.
    """

    @contextmanager
    def optim_context(self, model: torch.nn.Module) -> Iterator[None]:
        """Add the autocast to the context that the loss is computed in."""
        with super().optim_context(model), torch.autocast("cpu", torch.bfloat16):
            yield


def has_fast_bfloat16() -> bool | None:
    """Return whether this CPU multiplies bfloat16 itself; None where torch cannot tell."""
    capabilities: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
    found = [capabilities[name] for name in ("avx512_bf16", "amx_bf16") if name in capabilities]
    return any(found) if found else None
