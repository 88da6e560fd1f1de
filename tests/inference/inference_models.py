"""Small detectors with random weights, as checkpoints of training: made once, whatever test asks."""

from __future__ import annotations

import functools
import logging
import tempfile
from collections import OrderedDict
from pathlib import Path

import cv2
import numpy as np
import torch
from mmdet.registry import MODELS
from mmengine.logging import HistoryBuffer, MMLogger
from mmengine.registry import init_default_scope

import cxr_mmdet.datasets
import cxr_mmdet.models.data_preprocessor  # noqa: F401
from cxr_mmdet.engine.config import load_config, train_whole_backbone

_FOLDER = tempfile.TemporaryDirectory(prefix="cxr-mmdet-tests-")

_FASTER = [
    "model.backbone.depth=18",
    "model.backbone.base_channels=16",
    "model.backbone.stem_channels=16",
    "model.neck.in_channels=[32,64,128]",
    "model.neck.out_channels=32",
    "model.rpn_head.in_channels=32",
    "model.rpn_head.feat_channels=32",
    "model.rpn_head.anchor_generator.scales=[4]",
    "model.roi_head.bbox_roi_extractor.out_channels=32",
    "model.roi_head.bbox_roi_extractor.finest_scale=28",
    "model.roi_head.bbox_head.in_channels=32",
    "model.roi_head.bbox_head.fc_out_channels=64",
    "model.test_cfg.rpn.nms_pre=200",
    "model.test_cfg.rpn.max_per_img=100",
]
MODELS_BY_KIND = {
    # Squares of 128 px; group norm in the head.
    "retina": ("retina_phantom", ["test_dataloader.dataset.pipeline.2.scale=(128,128)"]),
    # The picture's own shape, the long side at most 192 px.
    "retina_wide": (
        "retina_14cls",
        [
            "model.backbone.depth=18",
            "model.backbone.base_channels=16",
            "model.backbone.stem_channels=16",
            "model.neck.in_channels=[32,64,128]",
            "model.neck.out_channels=32",
            "model.bbox_head.in_channels=32",
            "model.bbox_head.feat_channels=32",
            "test_dataloader.dataset.pipeline.1.scale=(192,128)",
        ],
    ),
    "faster": ("faster_rcnn_5cls", [*_FASTER, "test_dataloader.dataset.pipeline.2.scale=(192,192)"]),
    "faster_wide": ("faster_rcnn_14cls", [*_FASTER, "test_dataloader.dataset.pipeline.1.scale=(256,160)"]),
}
KINDS = list(MODELS_BY_KIND)


@functools.cache
def config_of(kind: str):
    """Return the config of a detector that is small and has opinions."""
    name, options = MODELS_BY_KIND[kind]
    config = load_config(name, load_from="none", cfg_options=options)
    train_whole_backbone(config)
    return config


def build(kind: str):
    """Return the detector; equal each time."""
    init_default_scope("mmdet")
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel(logging.ERROR)
    generator = torch.Generator().manual_seed(5)
    model = MODELS.build(config_of(kind).model).eval()
    logger.setLevel(level)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            if parameter.dim() > 1:
                fan_in = parameter[0].numel()
                parameter.normal_(0, (2 / fan_in) ** 0.5, generator=generator)
            elif name.endswith("bias"):
                parameter.normal_(0, 0.1, generator=generator)
        for name, buffer in sorted(model.named_buffers()):
            if name.endswith("running_mean"):
                buffer.normal_(0, 0.1, generator=generator)
            elif name.endswith("running_var"):
                buffer.uniform_(0.5, 2, generator=generator)
        _sharpen(model)
    return model


def _sharpen(model) -> None:
    """Scale the last layers by what they give for a picture: scores spread over 0…1, boxes stay near their anchors."""
    pixels = torch.from_numpy(make_picture(128, 128)).float()
    pyramid = model.extract_feat(((pixels - 120) / 58).expand(1, 3, -1, -1))
    two_stage = hasattr(model, "roi_head")
    head = model.rpn_head if two_stage else model.bbox_head
    scores, deltas = head(pyramid)
    cls, reg = (head.rpn_cls, head.rpn_reg) if two_stage else (head.retina_cls, head.retina_reg)
    _spread(cls, torch.cat([level.flatten() for level in scores]), 2.0, -2.5 if two_stage else -6.0)
    _spread(reg, torch.cat([level.flatten() for level in deltas]), 0.3, 0.0)
    if two_stage:
        corners = torch.rand(60, 2, generator=torch.Generator().manual_seed(1)) * 80
        rois = torch.cat([torch.zeros(60, 1), corners, corners + 8 + corners.flip(1) / 2], dim=1)
        results = model.roi_head._bbox_forward(pyramid, rois)
        _spread(model.roi_head.bbox_head.fc_cls, results["cls_score"].flatten(), 2.0, 0.0)
        _spread(model.roi_head.bbox_head.fc_reg, results["bbox_pred"].flatten(), 1.0, 0.0)


def _spread(layer, outputs: torch.Tensor, deviation: float, mean: float) -> None:
    factor = deviation / outputs.std()
    layer.weight.mul_(factor)
    layer.bias.sub_(outputs.mean()).mul_(factor).add_(mean)


def write_checkpoint(kind: str, path: Path, **changes) -> Path:
    """Write what mmengine writes: weights, config, labels, and a history of losses that is no tensor."""
    config = config_of(kind)
    history = HistoryBuffer([0.5, 0.25], [1, 1])
    checkpoint = {
        "meta": {
            "epoch": 0,
            "iter": 2,
            "seed": 42,
            "cfg": config.pretty_text,
            "experiment_name": f"{kind}_20260101_010203",
            "dataset_meta": {"classes": tuple(config.test_dataloader.dataset.metainfo.classes)},
        },
        "state_dict": build(kind).state_dict(),
        "message_hub": {"log_scalars": OrderedDict({"train/loss": history})},
    } | changes
    torch.save(checkpoint, path)
    return path


@functools.cache
def checkpoint_of(kind: str) -> Path:
    """Return a checkpoint of a small detector; it must stay as it is."""
    return write_checkpoint(kind, Path(_FOLDER.name) / f"{kind}.pth")


@functools.cache
def bundle_of(kind: str, form: str) -> Path:
    """Return an exported bundle of a small detector; it must stay as it is."""
    from cxr_mmdet.inference.export import ExportOptions, export_model
    from cxr_mmdet.inference.model import Format

    out = Path(_FOLDER.name) / f"{kind}-{form}"
    export_model(str(checkpoint_of(kind)), out, ExportOptions(format=Format(form)))
    return out


def make_picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Return (height, width) uint8 with structure at several sizes."""
    rng = np.random.default_rng(seed)
    picture = np.zeros((height, width))
    for cells in (4, 9, 23):
        coarse = rng.uniform(0, 255, (cells, cells))
        picture += cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR) / 3
    return np.rint(picture).clip(0, 255).astype(np.uint8)


def write_picture(path: Path, height: int = 150, width: int = 120, seed: int = 0) -> Path:
    """Write a picture as PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), make_picture(height, width, seed))
    return path
