"""What a dense head says, as scores and four numbers an anchor, whatever it learned them as."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mmdet.models.dense_heads import GFLHead

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


def dense_outputs(head: Any, pyramid: Sequence[Tensor]) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
    """Return a head's scores (N, A * K, H, W) and deltas (N, A * 4, H, W), one of each a level.

    GFL says how likely each side is so many cells away; what is read off is the mean.
    """
    scores, deltas = head(pyramid)
    if isinstance(head, GFLHead):
        deltas = [_means(level, head.integral.project) for level in deltas]
    return scores, deltas


def _means(level: Tensor, values: Tensor) -> Tensor:
    """Return the means (N, A * 4, H, W) of distributions (N, A * 4 * bins, H, W) over ``values`` (bins,)."""
    likely = level.unflatten(1, (-1, len(values))).softmax(dim=2)
    return (likely * values.to(likely.dtype)[:, None, None]).sum(dim=2)
