"""The prediction benchmark, small: everybody is timed, and the backends agree."""

from __future__ import annotations

import json

import pytest
from rich.console import Console
from typer.testing import CliRunner

from benchmarks.cli import app
from benchmarks.harness import Comparison, Timings
from benchmarks.predict import ONNX, OPENVINO, TORCH, TORCHVISION, FirstFinding, PredictionBenchmark
from benchmarks.report import prediction_table
from benchmarks.stock import STOCK
from cxr_mmdet.inference.export.parity import Parity

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
def test_everybody_is_timed_and_the_backends_agree(monkeypatch):
    # torchvision's is a ResNet-50 at 800 px whatever the recipe says.
    monkeypatch.setattr("benchmarks.predict.torchvision_retinanet", lambda config: lambda path: None)
    options = ["--rounds", "1", "--size", "160", "--images", "2", "--threads", "1", "--no-int8", "--json"]
    result = CliRunner().invoke(app, ["predict", "retina_14cls", *options, "--cfg-options", *TINY])
    assert result.exit_code == 0, result.output
    (report,) = json.loads(result.stdout)["predictions"]
    names = [entry["name"] for entry in report["comparison"]["alternatives"]]
    assert names == [STOCK, TORCHVISION, TORCH, ONNX, OPENVINO]
    assert {entry["name"] for entry in report["first_finding"]} == {STOCK, TORCH, ONNX, OPENVINO}
    assert all(entry["seconds"] > 0 for entry in report["first_finding"])
    peaks = {entry["name"]: entry["peak_bytes"] for entry in report["first_finding"]}
    assert 3e7 < peaks[ONNX] < 0.7 * peaks[TORCH], "each process's own, not its parent's"
    for entry in report["agreement_with_torch"]:
        assert entry["findings"] > 10
        assert entry["unmatched"] == 0
        assert entry["largest_box_difference_px"] < 0.01


def test_the_table_fits_a_terminal():
    timings = (Timings(STOCK, (3.0, 2.9), (6.0, 5.8)), Timings("OpenVINO int8", (0.5, 0.6), (0.9, 1.0)))
    result = PredictionBenchmark(
        Comparison("From file to findings, retina_14cls", "image", timings, "wall_s"),
        (FirstFinding("OpenVINO int8", 1.25, 300_000_000),),
        (Parity("OpenVINO int8", 2, 140, 3, 120.5, 0.0625),),
    )
    console = Console(width=80, record=True)
    console.print(prediction_table(result))
    text = console.export_text()
    row = next(line for line in text.splitlines() if "int8" in line)
    assert row.split() == ["OpenVINO", "int8", "1.2", "300", "3/140", "1.2e+02", "0.06"]
    assert "…" not in text
