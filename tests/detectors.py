"""Small detectors with random weights, as checkpoints of training and as bundles, shared by all tests that ask."""

from __future__ import annotations

import copy
import functools
import os
from collections import OrderedDict
from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch
from mmcv.transforms import Compose
from mmengine.logging import HistoryBuffer
from shared_builds import shared
from training_runs import SMALL_RETINA

from benchmarks.predict_models import random_detector, training_meta
from cxr_mmdet.engine.config import load_config
from cxr_mmdet.structures.enums import ExportFormat
from cxr_mmdet.structures.labels import LABELS_5

if TYPE_CHECKING:
    from pathlib import Path

FIVE_CLASSES = f"classes={','.join(LABELS_5)}"
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
    # The image's own shape, the long side at most 192 px.
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
    # Distances as distributions in place of deltas.
    "gfl": (
        "gfl",
        [
            FIVE_CLASSES,
            "model.backbone.depth=18",
            "model.backbone.base_channels=16",
            "model.backbone.stem_channels=16",
            "model.neck.in_channels=[16,32,64,128]",
            "model.neck.out_channels=64",
            "model.bbox_head.in_channels=64",
            "model.bbox_head.feat_channels=64",
            "model.bbox_head.stacked_convs=1",
            "test_dataloader.dataset.pipeline.1.scale=(128,128)",
        ],
    ),
    "faster": ("faster_rcnn_5cls", [*_FASTER, "test_dataloader.dataset.pipeline.2.scale=(192,192)"]),
    # With an abnormality gate: on the scores, on the neck, scores multiplied; on the backbone, boxes cut.
    "retina_scores": (
        "retina_phantom",
        [
            *SMALL_RETINA,
            "model.type=GatedRetinaNet",
            "model.gate.source=scores",
            "model.gate.score_mode=multiply",
            "model.gate.exponent=0.25",
            "test_dataloader.dataset.pipeline.2.scale=(128,128)",
        ],
    ),
    "retina_gate": (
        "retina_phantom",
        [
            *SMALL_RETINA,
            "model.type=GatedRetinaNet",
            "model.gate.source=neck",
            "model.gate.score_mode=multiply",
            "test_dataloader.dataset.pipeline.2.scale=(128,128)",
        ],
    ),
    "faster_gate": (
        "faster_rcnn_5cls",
        [
            *_FASTER,
            "model.type=GatedFasterRCNN",
            "model.gate.source=backbone",
            "model.gate.score_mode=cut",
            "model.gate.cut=0.8",
            "test_dataloader.dataset.pipeline.2.scale=(192,192)",
        ],
    ),
    "faster_wide": ("faster_rcnn_14cls", [*_FASTER, "test_dataloader.dataset.pipeline.1.scale=(256,160)"]),
}
# One for each graph that scores come out of.
for _kind, _plain in {"wide_scores": "retina_wide", "gfl_scores": "gfl"}.items():
    _name, _options = MODELS_BY_KIND[_plain]
    _type = load_config(_name, load_from="none").model.type
    MODELS_BY_KIND[_kind] = (
        _name,
        [*_options, f"model.type=Gated{_type}", "model.gate.source=scores", "model.gate.score_mode=multiply"],
    )
GATED_KINDS = ["retina_gate", "retina_scores", "wide_scores", "gfl_scores", "faster_gate"]
KINDS = [kind for kind in MODELS_BY_KIND if kind not in GATED_KINDS]


class Bomb:
    """Makes a folder when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@functools.cache
def config_of(kind: str):
    """Return the config of a small detector."""
    name, options = MODELS_BY_KIND[kind]
    return load_config(name, load_from="none", cfg_options=options)


@functools.cache
def model_of(kind: str):
    """Return the detector; it must stay as it is."""
    return random_detector(config_of(kind))


def build(kind: str):
    """Return a detector of one's own; equal each time."""
    return copy.deepcopy(model_of(kind))


@functools.cache
def meta_of(kind: str) -> dict:
    """Return what training notes besides weights; it must stay as it is."""
    return training_meta(config_of(kind), kind)


def write_checkpoint(kind: str, path: Path, **changes) -> Path:
    """Write what training writes, with a history of losses that is no tensor."""
    hub = {"log_scalars": OrderedDict({"train/loss": HistoryBuffer([0.5, 0.25], [1, 1])})}
    torch.save({"meta": meta_of(kind), "state_dict": model_of(kind).state_dict(), "message_hub": hub} | changes, path)
    return path


def checkpoint_of(kind: str) -> Path:
    """Return a checkpoint of a small detector; it must stay as it is."""
    return shared(f"{kind}.pth", lambda path: write_checkpoint(kind, path))


def bundle_of(kind: str, form: str) -> Path:
    """Return an exported bundle of a small detector; it must stay as it is."""
    from cxr_mmdet.inference.export.export import ExportOptions, export_model

    options = ExportOptions(format=ExportFormat(form))
    return shared(f"{kind}-{form}", lambda path: export_model(str(checkpoint_of(kind)), path, options))


def make_image(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Return (height, width) uint8 with structure at several sizes."""
    rng = np.random.default_rng(seed)
    image = np.zeros((height, width))
    for cells in (4, 9, 23):
        coarse = rng.uniform(0, 255, (cells, cells))
        image += cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR) / 3
    return np.rint(image).clip(0, 255).astype(np.uint8)


def mmdet_result(kind: str, path: Path):
    """Return the data sample that mmdet's own pipeline, model and decoding make of an image."""
    model = model_of(kind)
    sample = Compose(config_of(kind).test_dataloader.dataset.pipeline)(
        {"img_path": str(path), "img_id": 1, "instances": []}
    )
    with torch.no_grad():
        (result,) = model.test_step({"inputs": [sample["inputs"]], "data_samples": [sample["data_samples"]]})
    return result


def write_image(path: Path, height: int = 150, width: int = 120, seed: int = 0) -> Path:
    """Write an image as PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), make_image(height, width, seed))
    return path
