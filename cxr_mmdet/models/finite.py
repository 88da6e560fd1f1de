"""Numbers that must be finite: a detector's weights when they are loaded, and what its heads give."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from cxr_mmdet.errors import NotFiniteError, not_finite

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


def require_finite_weights(weights: Mapping[str, Any], source: str) -> None:
    """Check that no weight is NaN or infinite.

    Args:
        weights: tensors by name; other values are left alone.
        source: the file in the error message.

    Raises:
        CheckpointError: some are.
    """
    wrong = [name for name, value in weights.items() if isinstance(value, Tensor) and not _is_finite(value)]
    if wrong:
        raise not_finite(source, wrong[0])


def refuse_non_finite_outputs(model: nn.Module) -> None:
    """Make a detector raise :class:`NotFiniteError` when one of its heads gives NaN or infinity.

    mmdet's decoding leaves out what is not above a threshold, and NaN is not: an image would seem normal.
    """
    for head in _heads(model):
        head.register_forward_hook(_check_outputs)


def _check_outputs(head: nn.Module, _: Any, outputs: Any) -> None:
    if not all(_is_finite(tensor) for tensor in _tensors(outputs)):
        raise NotFiniteError


def _heads(model: nn.Module) -> Iterator[nn.Module]:
    roi_head = getattr(model, "roi_head", None)
    for owner, name in ((model, "rpn_head"), (model, "bbox_head"), (roi_head, "bbox_head")):
        head = getattr(owner, name, None)
        if isinstance(head, nn.ModuleList):
            yield from head
        elif isinstance(head, nn.Module):
            yield head


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from _tensors(part)
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _tensors(part)


def _is_finite(tensor: Tensor) -> bool:
    return not tensor.is_floating_point() or bool(torch.isfinite(tensor).all())
