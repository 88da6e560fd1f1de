"""Exported models and outsiders' graphs side by side: everybody is timed and scored, and the plot shows them."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
from detectors import bundle_of, checkpoint_of, write_image
from typer.testing import CliRunner

from benchmarks import exported
from benchmarks.cli import app
from benchmarks.exported import (
    DECODED,
    NETWORK,
    WHOLE,
    _decoded,
    _parse_model,
    benchmark_exported,
    draw_points,
    network_of,
)
from benchmarks.outsiders import load_outsider
from benchmarks.predict import StockPredictor
from cxr_mmdet.errors import CheckpointError, DatasetError, UsageError
from cxr_mmdet.files import write_json
from cxr_mmdet.inference.predictor import Predictor, as_radiograph

openvino = pytest.importorskip("openvino")

SIDE = 64
"""Of the small YOLO's input."""


def write_yolo(path, *, transposed=False):
    """Write a graph of YOLO's kind that always finds two boxes of one class that overlap, and one of another."""
    from openvino import opset13 as ops

    answers = np.zeros((1, 6, 8), np.float32)
    answers[0, :, 0] = 32, 32, 16, 8, 0.9, 0.1
    answers[0, :, 1] = 32, 32, 16, 9, 0.8, 0.1
    answers[0, :, 2] = 16, 32, 8, 8, 0.1, 0.7
    image = ops.parameter([1, 3, SIDE, SIDE], np.float32, name="images")
    nothing = ops.multiply(ops.reduce_mean(image, [1, 2, 3], keep_dims=False), ops.constant(np.float32(0)))
    output = ops.add(ops.constant(answers.transpose(0, 2, 1) if transposed else answers), nothing)
    openvino.save_model(openvino.Model([ops.result(output)], [image], "yolo"), str(path), compress_to_fp16=False)
    return path


@pytest.fixture
def yolo(tmp_path):
    return write_yolo(tmp_path / "yolo.xml")


def test_a_graph_of_yolo_finds_in_pixels_of_the_radiograph(tmp_path, yolo):
    predictor = Predictor(load_outsider(yolo, threads=1, class_names=("Nodule/Mass", "ILD")))
    pixels = np.zeros((128, 64), np.uint8)  # which becomes 64 x 32 px, then a square with grey to the right
    entry = predictor.model.preprocessing(pixels)
    assert entry.batch.shape == (1, 3, SIDE, SIDE)
    np.testing.assert_allclose(entry.batch[0, :, 0, [0, 31, 32, 63]], [[0] * 3] * 2 + [[114 / 255] * 3] * 2)
    found = predictor.predict(pixels)
    assert predictor.model.backend.name == "OpenVINO"
    assert [finding.class_name for finding in found] == ["Nodule/Mass", "ILD"], "NMS leaves the better of the two"
    np.testing.assert_allclose(
        found.boxes_xyxy[0], [2 * 24, 2 * 28, 2 * 32, 2 * 36]
    )  # cut at the radiograph's right side
    np.testing.assert_allclose(found.scores, [0.9, 0.7], rtol=1e-6)
    assert predictor.class_names == ("Nodule/Mass", "ILD")
    assert load_outsider(yolo, threads=1, class_names=("a",)).class_names == ("class 0", "class 1")


def test_a_graph_that_is_none_of_yolo(tmp_path, yolo):
    with pytest.raises(CheckpointError, match=r"gives \(1, 8, 6\), expected .* without NMS"):
        load_outsider(write_yolo(tmp_path / "other.xml", transposed=True), threads=1)
    with pytest.raises(UsageError, match="no such graph"):
        load_outsider(tmp_path / "missing.xml", threads=1)
    (tmp_path / "yolo.pt").write_text("")
    with pytest.raises(UsageError, match=r"an \.xml of OpenVINO or an \.onnx"):
        load_outsider(tmp_path / "yolo.pt", threads=1)
    with pytest.raises(UsageError, match="expected NAME=FILE"):
        benchmark_exported([], ["yolo.xml"], size_hw=(64, 64))


def test_the_network_alone_is_all_graphs_on_the_inputs_of_the_radiograph(tmp_path):
    predictor = Predictor.load(bundle_of("faster", "onnx"), threads=1)
    run = network_of(predictor, as_radiograph(write_image(tmp_path / "a.png")))
    maps, regions = run()
    assert len(maps) > 5
    assert len(regions) == 2
    assert run is not predictor.model.backend.run


def test_bundles_and_graphs_in_one_run_with_a_plot(tmp_path, yolo):
    bundle = bundle_of("faster", "onnx")
    names = Predictor.load(bundle).class_names
    data = tmp_path / "data"
    file = write_image(data / "images" / "1.png")
    box = {"id": 1, "image_id": 1, "category_id": 3, "bbox": [10, 10, 20, 20], "area": 400, "iscrowd": 0}
    coco = {
        "images": [{"id": 1, "file_name": file.name, "width": 120, "height": 150}],
        "annotations": [box],
        "categories": [{"id": place, "name": name} for place, name in enumerate(names, 1)],
    }
    write_json(data / "annotations" / "val_5.json", coco)
    plot = tmp_path / "plot.png"
    options = ["--graph", f"yolo={yolo}", "--data", str(data), "--rounds", "1", "--threads", "1", "--plot", str(plot)]
    models = [str(bundle), str(bundle), f"mine={checkpoint_of('faster')}@mmdet,torch"]
    result = CliRunner().invoke(app, ["predict", *models, *options, "--size", "80", "--cpu", "--json"])
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert [entry["title"].split(",")[0] for entry in report["comparisons"]] == [NETWORK, DECODED, WHOLE]
    ours, again, other = "faster, ONNX Runtime", "faster (2), ONNX Runtime", "yolo, OpenVINO"
    mine = ["mine, stock mmdet", "mine, torch"]
    for comparison in report["comparisons"]:
        assert [entry["name"] for entry in comparison["alternatives"]] == [ours, again, *mine, other]
    for name in mine:
        assert report["mean_ap"][name] == pytest.approx(report["mean_ap"][ours], abs=1e-3)
    assert 0 <= report["mean_ap"][ours] == report["mean_ap"][again] <= 1
    assert report["mean_ap"][other] is None, "it has two classes, the folder five"
    assert cv2.imread(str(plot)).shape[0] > 300


def test_stock_mmdet_finds_what_ours_does(tmp_path):
    ours, stock = Predictor.load(checkpoint_of("retina"), threads=1), StockPredictor(str(checkpoint_of("retina")))
    radiograph = as_radiograph(write_image(tmp_path / "a.png"))
    found, other = ours.predict(radiograph), stock.predict(radiograph)
    assert len(found) == len(other) > 3
    np.testing.assert_allclose(found.boxes_xyxy, other.boxes_xyxy, atol=0.01)
    assert len(_decoded(stock, radiograph)()) == 1


def test_a_model_may_have_a_name_and_backends_of_its_own(tmp_path):
    odd = tmp_path / "a=b@onnx"
    odd.touch()
    assert _parse_model(str(odd), ["int8"]) == ("", str(odd), ["int8"])
    assert _parse_model("mine=runs/x@onnx,int8", ["torch"]) == ("mine", "runs/x", ["onnx", "int8"])
    assert _parse_model("runs/me@home", ["torch"]) == ("", "runs/me@home", ["torch"])
    with pytest.raises(UsageError, match="rtmdet_tiny@onx,int8: no such backend onx; expected some of mmdet, torch,"):
        _parse_model("rtmdet_tiny@onx,int8", ["torch"])


def test_a_plot_needs_scores(tmp_path):
    result = CliRunner().invoke(app, ["predict", "--graph", "a=b.xml", "--plot", str(tmp_path / "a.png")])
    assert result.exit_code == 2
    assert "pass --data" in result.output
    with pytest.raises(UsageError, match="no contestant has an mAP"):
        draw_points(tmp_path / "a.png", [], title="", unit="ms")


@pytest.mark.parametrize("name", ["mine.json", "val_mine.json", "train_mine.json"])
def test_eight_bits_are_not_calibrated_on_what_scores_them(tmp_path, name):
    """With --ann-file mine.json both were one file."""
    path = tmp_path / name
    write_json(path, {"images": [], "annotations": [], "categories": []})
    with pytest.raises(DatasetError, match=f"{name}: eight bits are calibrated on .* --backend"):
        exported._calibration(tmp_path, path)
