"""Queries of an exported DINO start from the cells that mmdet chooses from, whatever a runtime's rounding."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import detectors
import modern
import numpy as np
import pytest
import torch
from mmdet.models.detectors import DINO
from torch import Tensor, nn

from cxr_mmdet.inference.backends.openvino import SINGLE_PRECISION
from cxr_mmdet.inference.backends.torch import TorchBackend
from cxr_mmdet.inference.cpu_kernels.on_demand import WholeMaps
from cxr_mmdet.inference.export.formats import OPSET
from cxr_mmdet.inference.export.parity import EXACT, compare_findings
from cxr_mmdet.inference.export.queries import SameStarts, proposing_cells
from cxr_mmdet.inference.predictor import Predictor


class Cells(nn.Module):
    """Which cells of a map as large as the image propose a box."""

    def __init__(self, level: int) -> None:
        super().__init__()
        self.level = level

    def forward(self, image: Tensor) -> Tensor:
        """Return (cells,) of 0 and 1."""
        size = torch.stack([torch.as_tensor(side) for side in image.shape[2:]])
        return proposing_cells(size, self.level).to(torch.int64)


def mmdet_chooses_from(height: int, width: int) -> np.ndarray:
    layers = SimpleNamespace(memory_trans_fc=nn.Identity(), memory_trans_norm=nn.Identity())
    shapes = torch.tensor([[height, width]])
    _, proposals = DINO.gen_encoder_output_proposals(layers, torch.zeros(1, height * width, 1), None, shapes)
    return proposals[0].isfinite().all(dim=1).numpy()


@pytest.fixture(scope="module", params=["onnx", "openvino"])
def run(request, tmp_path_factory):
    """Return a function that gives the cells of the finest level as a runtime computes them for any size."""
    path = tmp_path_factory.mktemp("cells") / "cells.onnx"
    axes = {"image": {2: "height", 3: "width"}, "cells": {0: "cells"}}
    names = {"input_names": ["image"], "output_names": ["cells"], "dynamic_axes": axes}
    torch.onnx.export(Cells(0), (torch.zeros(1, 1, 8, 9),), str(path), opset_version=OPSET, dynamo=False, **names)
    if request.param == "onnx":
        session = pytest.importorskip("onnxruntime").InferenceSession(path.read_bytes())
        return lambda image: session.run(None, {"image": image})[0]
    openvino = pytest.importorskip("openvino")
    compiled = openvino.compile_model(openvino.convert_model(str(path)), "CPU", SINGLE_PRECISION)
    return lambda image: compiled(image)[0]


# Of 50, 100 and 150 cells the first and the last, or the second, have their centre at 0.01 and 0.99 exactly: a
# radiograph of 800 px has them at the stride of 16.
@pytest.mark.parametrize("size", [(50, 53), (100, 107), (25, 50), (150, 2), (51, 49), (1, 1), (1, 300)])
def test_the_cells_that_queries_start_from(run, size):
    cells = run(np.zeros((1, 1, *size), np.float32))
    np.testing.assert_array_equal(cells.astype(bool), mmdet_chooses_from(*size))


def test_a_level_whose_boxes_are_as_large_as_the_image_proposes_none():
    size = torch.tensor([9, 8])
    assert [bool(proposing_cells(size, level).any()) for level in range(6)] == [True] * 5 + [False]


@pytest.fixture(scope="module")
def exported():
    """Return a tiny DINO in ONNX Runtime, and images with what it finds there."""
    predictor = Predictor.load(modern.bundle_of("dino_r50", "onnx"))
    images = [detectors.make_image(150, 120, seed=seed) for seed in range(2)]
    return predictor, images, predictor.predict(images)


def compare(exported, model, backend=None):
    """Return the comparison of a detector in torch, its queries in the order of the exported one, with that one."""
    predictor, images, found = exported
    same = SameStarts(TorchBackend(model), backend or predictor.model.backend)
    expected = Predictor(replace(predictor.model, backend=same)).predict(images)
    parity = compare_findings("images", expected, found, score_threshold=predictor.score_threshold)
    return replace(parity, largest_order_difference=same.order_difference)


def test_in_the_order_of_the_graph_torch_finds_the_same(exported):
    parity = compare(exported, modern.model_of("dino_r50"))
    assert parity.findings == 80
    assert parity.problems(EXACT) == []
    assert parity.largest_box_difference_px < 2e-3
    assert parity.largest_score_difference < 2e-5
    assert parity.largest_order_difference < 1e-4


@pytest.mark.parametrize(
    "name",
    [
        "bbox_head.cls_branches.1.weight",
        "decoder.layers.1.cross_attn.value_proj.weight",
        "backbone.conv1.weight",
    ],
)
def test_no_order_hides_a_weight_that_differs_by_one_per_cent(exported, name):
    model = modern.build("dino_r50")
    with torch.no_grad():
        model.get_parameter(name).mul_(1.01)
    assert compare(exported, model).problems(EXACT) != []


class Reordered:
    """The backend of a graph that says it had put its first queries into other places."""

    def __init__(self, backend, places):
        self.backend, self.places = backend, places

    def maps(self, batch):
        scores, deltas, *rest = self.backend.maps(batch)
        (level,) = deltas.levels
        queries = level.copy()
        queries[:, :, : len(self.places)] = level[:, :, self.places]
        return scores, WholeMaps([queries], deltas.values), *rest


def test_an_order_that_no_rounding_explains_is_refused_by_torchs_own_scores(exported):
    """Torch follows any order, and says by how much its scores contradict it."""
    model = modern.model_of("dino_r50")
    backend = exported[0].model.backend
    exchanged = compare(exported, model, Reordered(backend, [39, *range(1, 39), 0]))
    assert exchanged.largest_order_difference > 0.1
    assert exchanged.unmatched
    assert any("contradict the order" in problem for problem in exchanged.problems(EXACT))
    twice = compare(exported, model, Reordered(backend, [0, 0]))
    assert twice.largest_order_difference > 0
