"""A detector of mmdet as ONNX graphs whose input may have any size."""

from __future__ import annotations

import inspect
import warnings
from typing import TYPE_CHECKING, Any

import torch
from mmcv.cnn import fuse_conv_bn
from mmdet.models.detectors import TwoStageDetector
from torch import Tensor, nn
from torchvision.ops import roi_align

from cxr_mmdet.errors import CheckpointError
from cxr_mmdet.inference.graphs import ABNORMAL, MAPS, REGIONS, maps_outputs, regions_inputs
from cxr_mmdet.models.abnormality_gate import gate_of

if TYPE_CHECKING:
    from pathlib import Path

    from mmdet.models.detectors.base import BaseDetector

OPSET = 17
"""The first with layer normalisation; RoI align knows half pixels since 16."""

_EXAMPLE_SIDE = 128


class MapsGraph(nn.Module):
    """Backbone, neck and dense head; with the feature pyramid's first levels where a second stage needs them.

    And with the logits of an abnormality gate, where the model has one.
    """

    def __init__(self, model: BaseDetector, pyramid_levels: int) -> None:
        super().__init__()
        self.backbone, self.neck = model.backbone, model.neck
        self.head = model.rpn_head if pyramid_levels else model.bbox_head
        self.pyramid_levels = pyramid_levels
        self.gate = gate_of(model)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Return scores, deltas and features of the levels, and the gate's logits."""
        stages = self.backbone(image)
        pyramid = self.neck(stages)
        scores, deltas = self.head(pyramid)
        logits = () if self.gate is None else (self.gate(stages, pyramid),)
        return (*scores, *deltas, *pyramid[: self.pyramid_levels], *logits)


class RegionsGraph(nn.Module):
    """RoI align on each level's own regions, then the box head."""

    def __init__(self, model: BaseDetector) -> None:
        super().__init__()
        self.head = model.roi_head.bbox_head
        layers = model.roi_head.bbox_roi_extractor.roi_layers
        self.sizes = [tuple(layer.output_size) for layer in layers]
        self.scales = [float(layer.spatial_scale) for layer in layers]
        self.ratios = [int(layer.sampling_ratio) for layer in layers]
        self.aligned = [bool(layer.aligned) for layer in layers]

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits and deltas of the regions, level by level.

        Args:
            inputs: the features (N, C, H, W) of each level, then the regions (R, 5) of each level.
        """
        levels = len(self.scales)
        pooled = [
            roi_align(
                inputs[level],
                inputs[levels + level],
                self.sizes[level],
                spatial_scale=self.scales[level],
                sampling_ratio=self.ratios[level],
                aligned=self.aligned[level],
            )
            for level in range(levels)
        ]
        logits, deltas = self.head(torch.cat(pooled))
        return logits, deltas


def export_onnx(model: BaseDetector, folder: Path) -> list[Path]:
    """Write ``maps.onnx`` and, for a two-stage detector, ``regions.onnx``; return them.

    The example must be larger than one cell on every level, for tracing does not see sizes of 1 as variable.

    Args:
        model: in evaluation mode, with RoI align in the second stage; its norms become part of the convolutions.
        folder: where.

    Raises:
        CheckpointError: an operator that ONNX does not have.
    """
    model = fuse_conv_bn(model).eval()
    two_stage = isinstance(model, TwoStageDetector)
    pyramid_levels = model.roi_head.bbox_roi_extractor.num_inputs if two_stage else 0
    head = model.rpn_head if two_stage else model.bbox_head
    levels = len(head.prior_generator.strides)
    side = max(_EXAMPLE_SIDE, 4 * max(head.prior_generator.strides[-1]))
    image = torch.zeros(1, 3, side, side)
    maps = MapsGraph(model, pyramid_levels).eval()
    axes: dict[str, Any] = {"image": {0: "pictures", 2: "height", 3: "width"}}
    outputs = maps_outputs(levels, pyramid_levels, gate=maps.gate is not None)
    axes |= {name: {0: "pictures", 2: f"{name}_height", 3: f"{name}_width"} for name in outputs}
    axes |= {ABNORMAL: {0: "pictures"}} if maps.gate is not None else {}
    paths = [folder / f"{MAPS}.onnx"]
    _export(maps, (image,), paths[0], ["image"], outputs, axes)
    if two_stage:
        with torch.inference_mode():
            features = maps(image)[2 * levels :][:pyramid_levels]
        rois = tuple(torch.tensor([[0.0, 8.0, 8.0, 60.0, 60.0], [0.0, 4.0, 4.0, 90.0, 90.0]]) for _ in features)
        names = regions_inputs(pyramid_levels)
        axes = {name: {0: "pictures", 2: f"{name}_height", 3: f"{name}_width"} for name in names[:pyramid_levels]}
        axes |= {name: {0: name} for name in names[pyramid_levels:]}
        axes |= {name: {0: "regions"} for name in ("logits", "deltas")}
        paths.append(folder / f"{REGIONS}.onnx")
        example = (*(feature.clone() for feature in features), *rois)
        _export(RegionsGraph(model).eval(), example, paths[1], names, ["logits", "deltas"], axes)
    return paths


def _export(
    graph: nn.Module,
    example: tuple[Tensor, ...],
    path: Path,
    inputs: list[str],
    outputs: list[str],
    axes: dict[str, Any],
) -> None:
    # The exporter by tracing: it does without onnxscript, and takes pictures whose coarsest map is one cell.
    tracing: dict[str, Any] = {"dynamo": False} if "dynamo" in inspect.signature(torch.onnx.export).parameters else {}
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        try:
            torch.onnx.export(
                graph,
                example,
                str(path),
                opset_version=OPSET,
                input_names=inputs,
                output_names=outputs,
                dynamic_axes=axes,
                **tracing,
            )
        except torch.onnx.errors.OnnxExporterError as error:
            reason = str(error).strip().splitlines()[0]
            raise CheckpointError(f"the model cannot be exported to ONNX: {reason}") from error
