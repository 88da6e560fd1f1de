"""Detectors with random weights that nevertheless have opinions, written as checkpoints of training."""

from __future__ import annotations

import copy
import logging
from typing import TYPE_CHECKING, Any

import torch
from mmdet.models.detectors import DINO
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.logging import MMLogger
from mmengine.registry import init_default_scope
from torch import nn
from torch.nn import functional

import cxr_mmdet.datasets
import cxr_mmdet.models.data_preprocessor  # noqa: F401
from cxr_mmdet.engine.config import class_names, train_whole_backbone
from cxr_mmdet.inference.export.describe import region_stages
from cxr_mmdet.models.abnormality_gate import FeatureGate, ScoreGate
from cxr_mmdet.models.gated_detectors import gate_logits, gate_of

if TYPE_CHECKING:
    from mmdet.models.detectors.base import BaseDetector
    from mmengine.config import Config

    from cxr_mmdet.models.abnormality_gate import AbnormalityGate

_BOXES = {
    **dict.fromkeys(("rpn", "atss", "retina"), (0.3, 0.0)),  # deltas
    "gfl": (3.0, 0.0),  # logits of distances in cells
    **dict.fromkeys(("rtm", "vfnet"), (0.3, 1.0)),  # distances in cells, or their logarithms
}
"""Deviation and mean of what the last layer for boxes gives, by the prefix of its name."""

_SIDE = 128
_SEED = 5


def random_detector(config: Config) -> BaseDetector:
    """Return the detector of a config; equal for equal configs.

    With a usual start no score would pass a threshold. Here the last layers are scaled by what they give for one cloudy
    image, so that scores spread over 0…1 and boxes stay near their anchors.
    """
    init_default_scope("mmdet")
    train_whole_backbone(config)
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel(logging.ERROR)
    model = MODELS.build(copy.deepcopy(config.model)).eval()  # whose test_cfg is then its own
    logger.setLevel(level)
    generator = torch.Generator().manual_seed(_SEED)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            if parameter.dim() > 1:
                parameter.normal_(0, (2 / parameter[0].numel()) ** 0.5, generator=generator)
            elif name.endswith("bias"):
                parameter.normal_(0, 0.1, generator=generator)
        for name, buffer in sorted(model.named_buffers()):
            if name.endswith("running_mean"):
                buffer.normal_(0, 0.1, generator=generator)
            elif name.endswith("running_var"):
                buffer.uniform_(0.5, 2, generator=generator)
        image = _cloudy_image(generator)
        _spread_heads(model, image, generator)
        if (gate := gate_of(model)) is not None:
            _settle_gate(model, gate, image)
    return model


def training_meta(config: Config, name: str) -> dict[str, Any]:
    """Return what training notes in a checkpoint besides weights; formatting the config takes a second."""
    return {
        "iter": 0,
        "cfg": config.pretty_text,
        "experiment_name": f"{name}_20260101_000000",
        "dataset_meta": {"classes": class_names(config)},
    }


def _cloudy_image(generator: torch.Generator) -> torch.Tensor:
    """Return (1, 3, side, side): one normalised plane of noise at several scales, seen three times."""
    clouds = [torch.rand(1, 1, cells, cells, generator=generator) for cells in (4, 8, 16)]
    planes = [functional.interpolate(cloud, (_SIDE, _SIDE), mode="bilinear") for cloud in clouds]
    plane = torch.cat(planes).sum(dim=0, keepdim=True)
    return ((plane - 1.5) * 85 / 58).expand(-1, 3, -1, -1)


def _spread_heads(model: BaseDetector, image: torch.Tensor, generator: torch.Generator) -> None:
    if isinstance(model, DINO):
        _spread_queries(model, image)
        return
    pyramid = model.extract_feat(image)
    two_stage = hasattr(model, "roi_head")
    head = model.rpn_head if two_stage else model.bbox_head
    scores, deltas, *_ = head(pyramid)
    kind = next(kind for kind in _BOXES if hasattr(head, f"{kind}_cls"))
    if kind in ("rtm", "vfnet"):  # distances in pixels; RTMDet-tiny and RTMDet-s take no exponentials
        cells = [level / stride[0] for level, stride in zip(deltas, head.prior_generator.strides, strict=True)]
        deltas = [level.log() if getattr(head, "exp_on_reg", True) else level for level in cells]
    boxes = _BOXES[kind]
    for part, maps, spread in (("cls", scores, (2.0, -2.5 if two_stage else -6.0)), ("reg", deltas, boxes)):
        last = getattr(head, f"{kind}_{part}")
        layers, levels = (last, maps) if isinstance(last, nn.ModuleList) else ([last], [maps])
        for layer, outputs in zip(layers, levels, strict=True):
            _spread(layer, torch.cat([level.flatten() for level in outputs]), *spread)
    if two_stage:
        corners = torch.rand(60, 2, generator=generator) * 80
        rois = torch.cat([torch.zeros(60, 1), corners, corners + 8 + corners.flip(1) / 2], dim=1)
        for extractor, region_head in region_stages(model.roi_head):
            logits, moves = region_head(extractor(pyramid[: extractor.num_inputs], rois))
            _spread(region_head.fc_cls, logits.flatten(), 2.0, 0.0)
            _spread(region_head.fc_reg, moves.flatten(), 1.0, 0.0)


def _spread_queries(model: DINO, image: torch.Tensor) -> None:
    """Spread the logits of the queries, and keep their boxes near where they start."""
    head: Any = model.bbox_head
    layers = [(layer, (2.0, -6.0)) for layer in head.cls_branches] + [
        (layer[-1], (0.3, 0.0)) for layer in head.reg_branches
    ]
    outputs: dict[Any, torch.Tensor] = {}
    hooks = [layer.register_forward_hook(lambda layer, _, said: outputs.update({layer: said})) for layer, _ in layers]
    # 900 queries are chosen among the cells of all levels: 4 * 128 px have 5440.
    image = functional.interpolate(image, scale_factor=4, mode="bilinear")
    size = tuple(image.shape[2:])
    model(image, [DetDataSample(metainfo={"img_shape": size, "batch_input_shape": size})], mode="tensor")
    for hook in hooks:
        hook.remove()
    for layer, spread in layers:
        _spread(layer, outputs[layer].flatten(), *spread)


def _settle_gate(model: BaseDetector, gate: AbnormalityGate, image: torch.Tensor) -> None:
    """Let the gate judge by half of the image, so that it says more of some images and less of others."""
    if isinstance(gate, FeatureGate):
        said = (_ask_gate(model, image) - gate.bias).abs().clamp(min=1)
        for weight in gate.evidence.parameters():
            weight.mul_(1 / said)
        gate.bias.sub_(_ask_gate(model, image))
    elif isinstance(gate, ScoreGate):
        # The more its biases, the more it says.
        low, high = -20.0, 20.0
        bias = gate.numbers[:-2]
        spread = torch.linspace(-1, 1, len(bias))
        for _ in range(40):
            middle = (low + high) / 2
            bias.copy_(spread + middle)
            low, high = (low, middle) if _ask_gate(model, image) > 0 else (middle, high)


def _ask_gate(model: BaseDetector, image: torch.Tensor) -> torch.Tensor:
    head = model.rpn_head if hasattr(model, "roi_head") else model.bbox_head
    with gate_logits() as said:
        head(model.extract_feat(image))
    return said[0]


def _spread(layer: Any, outputs: torch.Tensor, deviation: float, mean: float) -> None:
    factor = deviation / outputs.std()
    layer.weight.mul_(factor)
    layer.bias.sub_(outputs.mean()).mul_(factor).add_(mean)
