"""ONNX and OpenVINO files of a network's graphs."""

from __future__ import annotations

import inspect
import math
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import openvino
import torch
from torch import Tensor, nn

from cxr_mmdet.errors import CheckpointError, first_line
from cxr_mmdet.inference.backends.graphs import (
    ABNORMAL,
    BOXES,
    MAPS,
    boxes_inputs,
    maps_outputs,
    regions_name,
)
from cxr_mmdet.inference.backends.torch import fuse_norms
from cxr_mmdet.inference.export.describe import region_stages
from cxr_mmdet.inference.export.graphs import RegionsGraph, example_plan, maps_graph
from cxr_mmdet.inference.export.queries import QueryGraph
from cxr_mmdet.inference.spec import Queries

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from mmdet.models.detectors.base import BaseDetector

    from cxr_mmdet.inference.spec import DetectorSpec


OPSET = 17
"""ONNX opset that ONNX Runtime since 1.12 and OpenVINO since 2022 read."""

_EXAMPLE_SIDE = 128


@dataclass(frozen=True)
class Graphs:
    """ONNX files.

    Attributes:
        paths: of the graphs.
        box_depth: 3x3 convolutions of the graph of the box branch; 0 without one.
    """

    paths: list[Path]
    box_depth: int


def export_onnx(model: BaseDetector, spec: DetectorSpec, folder: Path, *, winograd: bool = True) -> Graphs:
    """Write the graphs that :mod:`cxr_mmdet.inference.backends.graphs` describes.

    The example must be larger than one cell on every level, for tracing does not see sizes of 1 as variable.

    Args:
        model: in evaluation mode; its norms become part of the convolutions, and it is changed in other ways.
        spec: its description.
        folder: where.
        winograd: see :func:`cxr_mmdet.inference.export.graphs.maps_graph`.

    Raises:
        CheckpointError: an operator that ONNX does not have.
    """
    model = fuse_norms(model).eval()
    two_stage = spec.regions is not None
    stages = [RegionsGraph(*stage).eval() for stage in region_stages(model.roi_head)] if two_stage else []
    is_transformer = isinstance(spec.maps, Queries)
    maps, boxes = (QueryGraph(model), None) if is_transformer else maps_graph(model, winograd=winograd)
    depth = 0 if boxes is None else len(boxes.branch.convs)
    side = max(_EXAMPLE_SIDE, 4 * max(spec.maps.strides[-1]))
    if isinstance(spec.maps, Queries):
        side = max(side, max(spec.maps.strides[0]) * math.ceil(spec.maps.count**0.5))
    image = torch.zeros(1, 3, side, side)
    levels, has_rows = len(spec.maps.anchor_counts), two_stage or boxes is not None
    outputs = maps_outputs(levels, deltas=boxes is None, rows=has_rows, gate=spec.gate is not None)
    axes: dict[str, Any] = {name: {0: "images", 1: f"{name}_height", 2: f"{name}_width"} for name in outputs}
    axes |= {"image": {0: "images", 2: "height", 3: "width"}, "rows": {0: "cells"}, ABNORMAL: {0: "images"}}
    paths = [folder / f"{MAPS}.onnx"]
    _export(maps.eval(), (image,), paths[-1], ["image"], outputs, axes)
    if boxes is not None:
        rows = torch.zeros(3, boxes.branch.convs[0].channels[0])
        names = boxes_inputs(depth)
        axes = {"rows": {0: "rows"}, "cells": {0: "chosen"}, "deltas": {0: "chosen"}}
        axes |= {name: {1: f"{name}_tiles"} for name in names[1:-1]}
        paths.append(folder / f"{BOXES}.onnx")
        _export(boxes.eval(), (rows, *example_plan(depth)), paths[-1], names, ["deltas"], axes)
    axes = {name: {0: "regions"} for name in ("pooled", "logits", "deltas")}
    for stage, regions in enumerate(stages):
        paths.append(folder / f"{regions_name(stage)}.onnx")
        _export(regions, (torch.zeros(2, regions.width),), paths[-1], ["pooled"], ["logits", "deltas"], axes)
    return Graphs(paths, depth)


def _export(
    graph: nn.Module,
    example: tuple[Tensor, ...],
    path: Path,
    inputs: list[str],
    outputs: list[str],
    axes: dict[str, Any],
) -> None:
    # The exporter by tracing: it does without onnxscript, and takes images whose coarsest map is one cell.
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
            reason = first_line(error)
            raise CheckpointError(f"the model cannot be exported to ONNX: {reason}") from error


def export_openvino(graphs: Sequence[Path]) -> list[Path]:
    """Write each ONNX graph as OpenVINO's pair of files beside it; return the files.

    Raises:
        OSError: they cannot be written.
    """
    files: list[Path] = []
    for graph in graphs:
        path = graph.with_suffix(".xml")
        save_graph(openvino.convert_model(str(graph)), path)
        files += [path, path.with_suffix(".bin")]
    return files


def save_graph(model: Any, path: Path) -> None:
    """Write a graph as OpenVINO's pair of files, ``path`` and its .bin.

    Raises:
        OSError: they cannot be written.
    """
    try:
        openvino.save_model(model, str(path), compress_to_fp16=False)
    except RuntimeError as error:  # "iostream error", whatever the system said
        raise OSError(f"OpenVINO cannot write {path.name} and its .bin, as on a full disk") from error
