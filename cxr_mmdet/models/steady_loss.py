"""Losses divided by a running mean of the number of positive anchors, as Detectron2's RetinaNet divides them.

mmdet divides a step's loss by the positive anchors of that very step, and counts a normal radiograph as one. Where
boxes are few and normal studies many, steps without a finding so weigh tens of times what others do, and all that they
say is "no". Detectron2 divides by a mean over the last steps (momentum 0.9), so that an anchor counts the same in
whatever company it comes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from mmdet.models.dense_heads import ATSSHead, GFLHead, RetinaHead
from mmdet.registry import MODELS
from mmdet.utils import reduce_mean
from torch import nn

from cxr_mmdet.errors import ConfigError
from cxr_mmdet.models.vote_weights import VoteWeightedRetinaHead
from cxr_mmdet.models.vote_weights_atss import VoteWeightedATSSHead, VoteWeightedGFLHead

if TYPE_CHECKING:
    from collections.abc import Mapping

PREFIX = "Steady"
_HEADS = (RetinaHead, ATSSHead, GFLHead, VoteWeightedRetinaHead, VoteWeightedATSSHead, VoteWeightedGFLHead)


class SteadyLoss(nn.Module):
    """For a head of mmdet whose targets end with the number that its loss is divided by.

    Args:
        args: the head's.
        steady: ``momentum`` of the mean (0.9, Detectron2's; 0 is mmdet's loss), and ``start``, the mean before the
            first step (100).
        kwargs: the head's.

    Attributes:
        mean_positives: the mean after the last step. It is no part of the state, which stays mmdet's; a run's
            checkpoints carry it by :class:`~cxr_mmdet.engine.hooks.SteadyLossHook`.

    Raises:
        ConfigError: another option, or a number that cannot be.
    """

    def __init__(self, *args: Any, steady: dict[str, float] | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        options = {"momentum": 0.9, "start": 100.0} | dict(steady or {})
        self.momentum, start = options.pop("momentum"), options.pop("start")
        if options or not (0 <= self.momentum < 1 and start >= 1):
            raise ConfigError(
                f"the head's steady is {steady}; known are momentum, from 0 to below 1, and start, 1 or more."
            )
        self.mean_positives = float(start)

    def get_targets(self, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """Return mmdet's targets with the running mean in the place of this step's number, equal in all processes."""
        head: Any = super()
        *targets, positives = head.get_targets(*args, **kwargs)
        now = float(reduce_mean(torch.tensor(float(positives), device=next(self.parameters()).device)))
        self.mean_positives = self.momentum * self.mean_positives + (1 - self.momentum) * now
        return (*targets, self.mean_positives)


def split_steady(kind: str) -> tuple[str, str]:
    """Return the prefix of a steady head's type, or nothing, and the type without it."""
    return (PREFIX, kind.removeprefix(PREFIX)) if kind.startswith(PREFIX) else ("", kind)


def with_steady_loss(model: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is to be merged into a detector's config so that its head's loss is steady.

    Raises:
        ConfigError: there is no such form of its head.
    """
    kind = model.get("bbox_head", model.get("roi_head", {})).get("type", "head")
    if kind.startswith(PREFIX):
        return {}
    name = f"{PREFIX}{kind}"
    if name not in MODELS.module_dict:
        known = ", ".join(head.__name__ for head in _HEADS)
        raise ConfigError(
            f"switch steady_loss: no {kind} divides its loss so; leave the switch out, or take a recipe whose head is "
            f"one of {known}."
        )
    return {"bbox_head": {"type": name}}


def with_stock_loss(model: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is to be merged into a detector's config so that its loss is mmdet's; nothing where it is already."""
    steady, plain = split_steady(model.get("bbox_head", {}).get("type", ""))
    return {"bbox_head": {"type": plain}} if steady else {}


for _head in _HEADS:
    _members = {"__doc__": f"``{_head.__name__}`` with a steady loss.", "__module__": __name__}
    MODELS.register_module(module=type(f"{PREFIX}{_head.__name__}", (SteadyLoss, _head), _members))
