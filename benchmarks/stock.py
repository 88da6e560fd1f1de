"""Counterpart of a recipe without this project: the same model, data and steps from stock mmdet's parts."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from mmdet.registry import TRANSFORMS

import cxr_mmdet.datasets  # noqa: F401 (registers our transforms)
from cxr_mmdet.errors import ConfigError
from cxr_mmdet.models.steady_loss import split_steady

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

OURS = "cxr_mmdet"
STOCK = "stock mmdet"

_STEPS: dict[str, dict[str, Any] | None] = {
    "LoadGreyImage": {"type": "LoadImageFromFile"},
    "cxr_mmdet.LoadImageFromFile": {"type": "LoadImageFromFile"},
    "LoadVotedAnnotations": {"type": "LoadAnnotations", "with_bbox": True},
    "GreyToThreeChannels": None,  # stock mmdet loads three
    "PackRadiograph": {"type": "PackDetInputs"},
}
_PREPROCESSORS = {"GreyDetDataPreprocessor": "DetDataPreprocessor"}


def stock_steps(pipeline: Sequence[Mapping[str, Any]]) -> list[dict[str, Any] | None]:
    """Return the stock counterpart of each step of a pipeline; None where stock mmdet needs no such step.

    Raises:
        ConfigError: a step of ours does what stock mmdet cannot.
    """
    return [_stock_step(step) for step in pipeline]


def stock_model(model: Mapping[str, Any]) -> dict[str, Any]:
    """Return the model's config with mmdet's own preprocessor and loss; the networks are mmdet's already."""
    stock = copy.deepcopy(dict(model))
    if "bbox_head" in stock:
        stock["bbox_head"].pop("steady", None)
        stock["bbox_head"]["type"] = split_steady(stock["bbox_head"]["type"])[1]
    preprocessor = stock["data_preprocessor"]
    preprocessor["type"] = _PREPROCESSORS.get(preprocessor["type"], preprocessor["type"])
    return stock


def _stock_step(step: Mapping[str, Any]) -> dict[str, Any] | None:
    name = step["type"]
    if name in _STEPS:
        counterpart = _STEPS[name]
        return counterpart and dict(counterpart)
    if TRANSFORMS.get(name).__module__.startswith("cxr_mmdet."):
        raise ConfigError(
            f"the pipeline step {name} has no counterpart in stock mmdet, so nothing to compare with; choose a recipe "
            "without it, such as retina_14cls."
        )
    return dict(step)
