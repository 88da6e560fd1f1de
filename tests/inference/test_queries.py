"""Queries of an exported DINO start from the cells that mmdet chooses from, whatever a runtime's rounding."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmdet.models.detectors import DINO
from torch import Tensor, nn

from cxr_mmdet.inference.backends.openvino import SINGLE_PRECISION
from cxr_mmdet.inference.export.formats import OPSET
from cxr_mmdet.inference.export.queries import proposing_cells


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
