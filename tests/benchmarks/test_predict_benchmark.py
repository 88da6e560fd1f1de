"""The prediction benchmark, small: everybody is timed, and the backends agree."""

from __future__ import annotations

import pytest
from rich.console import Console

from cxr_mmdet.benchmarks.predict import ONNX, OPENVINO, TORCH, TORCHVISION, benchmark_predict
from cxr_mmdet.benchmarks.report import prediction_table
from cxr_mmdet.benchmarks.stock import STOCK
from cxr_mmdet.engine.config import load_config

TINY = [
    "model.backbone.depth=18",
    "model.backbone.base_channels=16",
    "model.backbone.stem_channels=16",
    "model.neck.in_channels=[32,64,128]",
    "model.neck.out_channels=32",
    "model.bbox_head.in_channels=32",
    "model.bbox_head.feat_channels=32",
    "test_dataloader.dataset.pipeline.1.scale=(192,128)",
]


@pytest.mark.slow
def test_everybody_is_timed_and_the_backends_agree(tmp_path, monkeypatch):
    monkeypatch.setattr("cxr_mmdet.benchmarks.predict.torchvision_retinanet", lambda config: lambda path: None)
    config = load_config("retina_14cls", load_from="none", cfg_options=TINY)
    result = benchmark_predict(config, "tiny", tmp_path, rounds=1, size=160, pictures=2, threads=1, int8=False)
    assert [entry.name for entry in result.comparison.timings] == [STOCK, TORCHVISION, TORCH, ONNX, OPENVINO]
    assert {entry.name for entry in result.first} == {STOCK, TORCH, ONNX, OPENVINO}
    assert all(entry.seconds > 0 and entry.peak_bytes > 1e7 for entry in result.first)
    for entry in result.parity:
        assert entry.findings > 10
        assert entry.unmatched == 0
        assert entry.largest_box_difference_px < 0.01
    console = Console(width=100, record=True)
    console.print(prediction_table(result))
    assert "stock mmdet" in console.export_text()
