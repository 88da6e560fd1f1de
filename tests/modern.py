"""The recipes of mmdet's modern detectors, made tiny: ResNet-18 or CSPNeXt of a quarter of the width, 64 or 128 px."""

from __future__ import annotations

import copy
import functools
import re
from typing import TYPE_CHECKING

import torch
from mmdet.registry import MODELS
from mmengine.registry import init_default_scope
from shared_builds import shared

from benchmarks.predict_models import random_detector, training_meta
from cxr_mmdet.engine.config import load_config
from cxr_mmdet.inference.export.export import ExportOptions, export_model
from cxr_mmdet.structures.enums import ExportFormat
from cxr_mmdet.structures.labels import LABELS_5

if TYPE_CHECKING:
    from pathlib import Path

_RESNET = ["model.backbone.depth=18", "model.backbone.base_channels=16", "model.backbone.stem_channels=16"]
_DENSE = [
    *_RESNET,
    "model.neck.in_channels=[16,32,64,128]",
    "model.neck.out_channels=64",  # two a group of the head's norms: the coarsest map is a single cell
    "model.bbox_head.in_channels=64",
    "model.bbox_head.feat_channels=64",
    "model.bbox_head.stacked_convs=1",
]
_RTMDET = [
    "model.backbone.deepen_factor=0.167",
    "model.backbone.widen_factor=0.25",
    "model.neck.in_channels=[64,128,256]",
    "model.neck.out_channels=64",
    "model.neck.num_csp_blocks=1",
    "model.bbox_head.in_channels=64",
    "model.bbox_head.feat_channels=64",
]
_CASCADE = [
    *_RESNET,
    "model.neck.in_channels=[16,32,64,128]",
    "model.neck.out_channels=32",
    "model.rpn_head.in_channels=32",
    "model.rpn_head.feat_channels=32",
    "model.roi_head.bbox_roi_extractor.out_channels=32",
    *(f"model.roi_head.bbox_head.{stage}.in_channels=32" for stage in range(3)),
    *(f"model.roi_head.bbox_head.{stage}.fc_out_channels=64" for stage in range(3)),
    "model.test_cfg.rpn.max_per_img=100",
]
_DINO = [
    *_RESNET,
    "model.neck.in_channels=[32,64,128]",
    "model.encoder.num_layers=1",
    "model.decoder.num_layers=2",
    "model.encoder.layer_cfg.ffn_cfg.feedforward_channels=64",
    "model.decoder.layer_cfg.ffn_cfg.feedforward_channels=64",
    "model.num_queries=60",
    "model.test_cfg.max_per_img=40",
]
# Both factors of a score, and distances as exponentials, as in RTMDet-m.
VARIANTS = {"rtmdet_objectness": ("rtmdet_m", ["model.bbox_head.with_objectness=True"])}
SHRINK = {
    "rtmdet_s": _RTMDET,
    "rtmdet_m": _RTMDET,
    "atss": _DENSE,
    "gfl": _DENSE,
    "vfnet": _DENSE,
    "cascade_rcnn": _CASCADE,
    "dino_r50": _DINO,
}
DETECTORS = list(SHRINK)


def options_of(name: str) -> list[str]:
    """Return the options that make a detector tiny, for images of 64 px."""
    return [
        *SHRINK[name],
        "train_dataloader.dataset.pipeline.2.scales=[(64,64)]",
        "val_dataloader.dataset.pipeline.1.scale=(64,64)",
        "test_dataloader.dataset.pipeline.1.scale=(64,64)",
        *(f"{part}_dataloader.num_workers=0" for part in ("train", "val", "test")),
        *(f"{part}_dataloader.persistent_workers=False" for part in ("train", "val", "test")),
    ]


@functools.cache
def config_of(name: str):
    """Return the config of a tiny detector that tests images of 128 px."""
    recipe, options = VARIANTS.get(name, (name, []))
    return load_config(
        recipe,
        load_from="none",
        cfg_options=[
            *SHRINK[recipe],
            *options,
            f"classes={','.join(LABELS_5)}",
            "test_dataloader.dataset.pipeline.1.scale=(128,128)",
        ],
    )


def build(name: str):
    """Return a detector of one's own; equal each time."""
    return copy.deepcopy(model_of(name))


@functools.cache
def model_of(name: str):
    """Return the detector with random weights that give it opinions; it must stay as it is."""
    if name == "cascade_rcnn":
        return random_detector(config_of(name))
    init_default_scope("mmdet")
    model = MODELS.build(copy.deepcopy(config_of(name).model)).eval()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for key, parameter in sorted(model.named_parameters()):
            if parameter.dim() > 1:
                # Boxes stay near where they start, or most would be cut to nothing at the border.
                size = 0.1 if re.search(r"(reg|reg_branches\.\d\.\d)\.weight$", key) else 1
                parameter.normal_(0, size * (2 / parameter[0].numel()) ** 0.5, generator=generator)
            elif key.endswith("bias") and "sampling_offsets" not in key:
                parameter.normal_(0, 0.1, generator=generator)
    return model


def checkpoint_of(name: str) -> Path:
    """Return a checkpoint of the detector as training writes it; it must stay as it is."""

    def write(path: Path) -> None:
        torch.save({"meta": training_meta(config_of(name), name), "state_dict": model_of(name).state_dict()}, path)

    return shared(f"modern-{name}.pth", write)


def bundle_of(name: str, form: str) -> Path:
    """Return an exported bundle of the detector, that of ONNX compared with torch; it must stay as it is."""
    options = ExportOptions(format=ExportFormat(form), compare=form == "onnx")
    return shared(f"modern-{name}-{form}", lambda path: export_model(str(checkpoint_of(name)), path, options))
