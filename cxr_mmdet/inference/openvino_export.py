"""ONNX graphs as OpenVINO's, and in eight bits where asked for."""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import openvino

from cxr_mmdet.inference.backend import WholeBackend
from cxr_mmdet.inference.decoding import level_of_regions, propose
from cxr_mmdet.inference.graphs import Pyramid, pool_pyramid
from cxr_mmdet.inference.predictor import as_radiograph
from cxr_mmdet.inference.spec import DetectorSpec

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from cxr_mmdet.inference.predictor import Predictor
    from cxr_mmdet.inference.sources import Item

REGION_PICTURES = 24
"""Each gives the second stage up to a thousand regions."""


def export_openvino(graphs: Sequence[Path], reference: Predictor, calibration: Sequence[Item]) -> list[Path]:
    """Write each ONNX graph as OpenVINO's pair of files beside it; return the files.

    Args:
        graphs: maps.onnx and, for a two-stage detector, regions.onnx.
        reference: the model in torch, which gives the inputs for calibration.
        calibration: radiographs; with any, weights and activations become eight bits.

    Raises:
        OSError: they cannot be written.
    """
    models = [openvino.convert_model(str(graph)) for graph in graphs]
    if calibration:
        models = _quantise(models, reference, calibration)
    files: list[Path] = []
    for model, graph in zip(models, graphs, strict=True):
        path = graph.with_suffix(".xml")
        try:
            openvino.save_model(model, str(path), compress_to_fp16=False)
        except RuntimeError as error:  # "iostream error", whatever the system said
            raise OSError(f"OpenVINO cannot write {path.name} and its .bin, as on a full disk") from error
        files += [path, path.with_suffix(".bin")]
    return files


def _quantise(models: list[Any], reference: Predictor, calibration: Sequence[Item]) -> list[Any]:
    """Return the models in eight bits; pictures are read when they are needed, not kept."""
    import nncf

    nncf.set_log_level(logging.ERROR)

    def maps(item: Item) -> dict[str, Any]:
        radiograph = as_radiograph(item.read())
        return {"image": reference.model.preprocessing(radiograph.pixels, radiograph.pixel_aspect).batch}

    quantised = []
    sources = (calibration, maps), (calibration[:REGION_PICTURES], lambda item: _regions(reference, item))
    for model, (items, transform) in zip(models, sources, strict=False):
        data = nncf.Dataset(list(items), transform)
        quantised.append(nncf.quantize(model, data, subset_size=len(items), preset=nncf.QuantizationPreset.MIXED))
    return quantised


def _regions(reference: Predictor, item: Item) -> dict[str, Any]:
    """Return what the second graph gets for a radiograph."""
    model = reference.model
    assert isinstance(model.spec, DetectorSpec), "others are not exported"
    assert not isinstance(model.backend, WholeBackend), "others are not exported"
    assert model.spec.regions is not None, "only two-stage detectors have a second graph"
    radiograph = as_radiograph(item.read())
    picture = model.preprocessing(radiograph.pixels, radiograph.pixel_aspect)
    scores, deltas, pyramid, _ = model.backend.maps(picture.batch)
    assert isinstance(pyramid, tuple), "the reference is torch"
    boxes = propose(model.spec.maps, [level[0] for level in scores], partial(deltas.at, 0), picture.size_hw)
    rois = np.concatenate([np.zeros((len(boxes), 1), dtype=np.float32), boxes], axis=1)
    sizes = tuple((level.shape[0], level.shape[2], level.shape[3]) for level in pyramid)
    channels = pyramid[0].shape[1]
    rows = np.concatenate([level.numpy(force=True).transpose(0, 2, 3, 1).reshape(-1, channels) for level in pyramid])
    levels = level_of_regions(model.spec.regions, boxes)
    return {"pooled": pool_pyramid(model.spec.regions.pooling, Pyramid(rows, sizes), rois, levels)}
