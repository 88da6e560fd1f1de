"""Mixed precision on a CPU, which mmengine's wrapper refuses."""

from __future__ import annotations

from contextlib import contextmanager
from types import MethodType
from typing import TYPE_CHECKING, Any

import torch
from mmdet.registry import OPTIM_WRAPPERS
from mmengine.optim import OptimWrapper
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Iterator


@OPTIM_WRAPPERS.register_module()
class CpuAmpOptimWrapper(OptimWrapper):
    """Compute convolutions and products in bfloat16, on the CPU; weights, their updates and norms stay in float32.

    bfloat16 has float32's range, so that the loss needs no scaling. It is fast where the processor multiplies it
    (AVX-512 BF16, AMX) and slow elsewhere: see :func:`has_fast_bfloat16`.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._is_guarded = False

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Add the autocast to the context that the loss is computed in."""
        if not self._is_guarded:
            guard_small_maps(model)
            self._is_guarded = True
        with super().optim_context(model), torch.autocast("cpu", torch.bfloat16):
            yield


def guard_small_maps(model: nn.Module) -> None:
    """Let convolutions compute in float32 where a map is so small that oneDNN's bfloat16 gradients are wrong.

    The gradient of a kernel is uninitialised memory (tried with torch 2.14 on AVX-512 BF16, forward and backward
    against float32) where a strided kernel of 3 or more gets a map one pixel wide, such as P6 of an image of 64 px,
    and where a kernel of 5 or more gets one that does not reach beyond its centre.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and (max(module.kernel_size) > 3 or _is_strided(module)):
            # Bound, so that a deep copy of the model calls its own.
            module.forward = MethodType(_forward, module)  # type: ignore[method-assign]


def has_fast_bfloat16() -> bool | None:
    """Return whether this CPU multiplies bfloat16 itself; None where torch cannot tell."""
    capabilities: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
    found = [capabilities[name] for name in ("avx512_bf16", "amx_bf16") if name in capabilities]
    return any(found) if found else None


def _is_strided(module: nn.Conv2d) -> bool:
    return max(module.kernel_size) > 1 and max(module.stride) > 1


def _forward(self: nn.Conv2d, maps: Tensor) -> Tensor:
    if all(size > kernel // 2 for size, kernel in zip(maps.shape[-2:], self.kernel_size, strict=True)):
        return type(self).forward(self, maps)
    with torch.autocast("cpu", enabled=False):
        return type(self).forward(self, maps.float())
