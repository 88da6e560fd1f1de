"""Small detectors with and without a gate, and what they are trained on."""

from __future__ import annotations

import torch
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData

from cxr_mmdet.engine.config import load_config
from cxr_mmdet.models.gated_detectors import gate_logits

SIDE = 64
SMALL = {
    "retina": (
        "retina_phantom",
        [
            "model.backbone.base_channels=8",
            "model.backbone.stem_channels=8",
            "model.neck.in_channels=[16,32,64]",
            "model.neck.out_channels=32",
            "model.bbox_head.in_channels=32",
            "model.bbox_head.feat_channels=64",  # two a group of the norms: the coarsest map is one cell
        ],
    ),
    "faster": (
        "faster_rcnn_5cls",
        [
            "model.backbone.depth=18",
            "model.backbone.base_channels=8",
            "model.backbone.stem_channels=8",
            "model.neck.in_channels=[16,32,64]",
            "model.neck.out_channels=16",
            "model.rpn_head.in_channels=16",
            "model.rpn_head.feat_channels=16",
            "model.roi_head.bbox_roi_extractor.out_channels=16",
            "model.roi_head.bbox_head.in_channels=16",
            "model.roi_head.bbox_head.fc_out_channels=16",
        ],
    ),
}


def build(kind: str, **gate):
    """Return a small detector; with a gate where there are options for one."""
    name, options = SMALL[kind]
    model = ConfigDict(load_config(name, load_from="none", cfg_options=options).model)
    if gate:
        model.update(type=f"Gated{model.type}", gate=gate)
    torch.manual_seed(0)
    detector = MODELS.build(model)
    detector.init_weights()
    return detector


def sample(boxes: int = 0, **meta) -> DetDataSample:
    """Return what the pipeline packs, with boxes of class 0."""
    instances = InstanceData(
        bboxes=torch.tensor([[8.0, 8.0, 40.0, 40.0]] * boxes).reshape(-1, 4),
        labels=torch.zeros(boxes, dtype=torch.long),
    )
    shape = (SIDE, SIDE)
    sizes = dict.fromkeys(("img_shape", "pad_shape", "batch_input_shape", "ori_shape"), shape)
    meta = sizes | {"scale_factor": (1.0, 1.0)} | meta
    return DetDataSample(gt_instances=instances, metainfo=meta)


def images(abnormal: list[bool], seed: int = 0) -> torch.Tensor:
    """Return noise in which the abnormal ones have a bright square."""
    noise = torch.randn(len(abnormal), 3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))
    for image, bright in zip(noise, abnormal, strict=True):
        image[:, 8:40, 8:40] += 3 * bright
    return noise


def say(detector, batch: torch.Tensor) -> torch.Tensor | None:
    """Return the logits of a detector's gate."""
    with gate_logits() as said:
        pyramid = detector.extract_feat(batch)
        if hasattr(detector, "bbox_head"):
            detector.bbox_head(pyramid)
    return said[0] if said else None
