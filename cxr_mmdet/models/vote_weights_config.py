"""Config changes that weight losses by readers' votes; the switch ``votes`` overlays them on a recipe."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mmdet.registry import MODELS

import cxr_mmdet.models.steady_loss
import cxr_mmdet.models.vote_weights
import cxr_mmdet.models.vote_weights_atss
from cxr_mmdet.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

PREFIX = "VoteWeighted"


def with_votes(model: Mapping[str, Any], **options: Any) -> dict[str, Any]:
    """Return what is to be merged into ``model`` so that its last heads weigh a box by its readers' votes.

    Args:
        model: a detector's config; of one stage, of two, or a cascade.
        options: of :class:`cxr_mmdet.models.vote_weights.VoteWeighting`; without any, the head's own or the defaults.

    Raises:
        ConfigError: there is no such form of its head.
    """
    if "roi_head" not in model:
        return {"bbox_head": _voting(model["bbox_head"], options)}
    heads, stages = model["roi_head"]["bbox_head"], model["train_cfg"]["rcnn"]
    if isinstance(heads, (list, tuple)):  # lists do not merge, they replace: every stage is given whole
        return {
            "roi_head": {"bbox_head": [dict(head) | _voting(head, options) for head in heads]},
            "train_cfg": {"rcnn": [dict(stage) | {"sampler": dict(stage["sampler"]) | _SAMPLER} for stage in stages]},
        }
    return {"roi_head": {"bbox_head": _voting(heads, options)}, "train_cfg": {"rcnn": {"sampler": _SAMPLER}}}


_SAMPLER = {"type": "VoteRandomSampler"}


def _voting(head: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    steady, plain = cxr_mmdet.models.steady_loss.split_steady(head["type"])
    name = f"{steady}{PREFIX}{plain.removeprefix(PREFIX)}"
    if name not in MODELS.module_dict:
        known = ", ".join(sorted(each.removeprefix(PREFIX) for each in MODELS.module_dict if each.startswith(PREFIX)))
        raise ConfigError(
            f"switch votes: no {head['type']} weighs readers' votes; leave the switch out, or take a recipe whose last "
            f"head is one of {known}."
        )
    return {"type": name} | ({"votes": {**(head.get("votes") or {}), **options}} if options else {})
