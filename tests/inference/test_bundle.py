"""Exported models: what they hold, what breaks them, and that they need neither torch nor mmdet."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from detectors import bundle_of, checkpoint_of, write_picture

from cxr_mmdet.errors import CheckpointError, UsageError
from cxr_mmdet.inference import export
from cxr_mmdet.inference.bundle import MODEL_FILE, Bundle
from cxr_mmdet.inference.export import ExportOptions, export_model
from cxr_mmdet.inference.model import Format
from cxr_mmdet.inference.parity import EXACT
from cxr_mmdet.inference.predictor import Predictor
from cxr_mmdet.inference.sources import find_items

ROOT = Path(__file__).resolve().parents[2]
FORBIDDEN = ("torch", "torchvision", "mmdet", "mmcv", "mmengine")


@pytest.fixture
def bundle(tmp_path):
    return Path(shutil.copytree(bundle_of("faster", "onnx"), tmp_path / "bundle"))


@pytest.mark.parametrize("form", ["onnx", "openvino"])
def test_an_exported_model_predicts_without_torch_and_mmdet(tmp_path, form):
    picture = write_picture(tmp_path / "a.png")
    script = (
        "import json, sys\n"
        "from cxr_mmdet.inference.predictor import Predictor\n"
        f"found = Predictor.load({str(bundle_of('faster', form))!r}).predict({str(picture)!r})\n"
        f"print(json.dumps([len(found), sorted(set(sys.modules) & set({FORBIDDEN!r}))]))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    count, loaded = json.loads(done.stdout.splitlines()[-1])
    assert count > 0
    assert loaded == []


def test_what_a_bundle_holds():
    path = bundle_of("faster", "onnx")
    document = json.loads((path / MODEL_FILE).read_text())
    assert document["labels"] == ["Aortic enlargement", "Cardiomegaly", "ILD", "Infiltration", "Nodule/Mass"]
    assert document["format"] == "onnx"
    assert set(document["files"]) == {"maps.onnx", "regions.onnx"}
    assert document["preprocessing"]["short_edge"] == 1024
    assert document["detector"]["regions"]["max_per_image"] == 100
    assert document["training"]["iter"] == 0
    (phantoms,) = document["parity"]["sets"]
    assert phantoms["pictures"] == 6
    assert phantoms["findings"] > 20, "or the comparison says nothing"
    assert phantoms["unmatched"] == 0
    assert phantoms["largest_box_difference_px"] < EXACT.box_px
    assert phantoms["mean_ap"] == pytest.approx(phantoms["reference_mean_ap"], abs=1e-3)
    card = (path / "MODEL_CARD.md").read_text()
    assert "not a medical device" in card
    assert "| 6 phantoms |" in card


def test_a_bundle_travels_as_json():
    opened = Bundle.open(bundle_of("faster", "onnx"))
    again = replace(opened, spec=type(opened.spec).from_json(json.loads(json.dumps(opened.spec.to_json()))))
    assert again == opened


@pytest.mark.parametrize("name", ["maps.onnx", "regions.onnx"])
def test_a_changed_weight_file(bundle, name):
    data = bytearray((bundle / name).read_bytes())
    data[len(data) // 2] ^= 1
    (bundle / name).write_bytes(data)
    with pytest.raises(CheckpointError, match=rf"{name}: is not the file this bundle was written with"):
        Predictor.load(bundle)


def test_a_missing_weight_file(bundle):
    (bundle / "regions.onnx").unlink()
    with pytest.raises(CheckpointError, match=r"regions\.onnx: is missing"):
        Predictor.load(bundle)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda document: document.update(schema_version=99), "version 99"),
        (lambda document: document.update(schema_version=1), "version 1, this program knows 2; export the model again"),
        (lambda document: document.pop("labels"), "KeyError: 'labels'"),
        (lambda document: document.update(format="caffe"), "'caffe' is unknown"),
        (lambda document: document.update(files={"../../etc/passwd": "0"}), "is missing from the bundle"),
        (lambda document: document["detector"].pop("maps"), "KeyError: 'maps'"),
        (lambda document: document["preprocessing"].update(mean=3), "TypeError"),
    ],
)
def test_a_description_that_is_none(bundle, change, message):
    document = json.loads((bundle / MODEL_FILE).read_text())
    change(document)
    (bundle / MODEL_FILE).write_text(json.dumps(document))
    with pytest.raises(CheckpointError, match=message):
        Predictor.load(bundle)


@pytest.mark.parametrize("text", ["", "{", "[]", "\x00"])
def test_a_description_that_is_no_json(bundle, text):
    (bundle / MODEL_FILE).write_text(text)
    with pytest.raises(CheckpointError, match=MODEL_FILE):
        Predictor.load(bundle)


def test_a_graph_that_the_runtime_refuses(bundle):
    from cxr_mmdet.inference.bundle import sha256_of

    (bundle / "maps.onnx").write_bytes(b"no graph")
    document = json.loads((bundle / MODEL_FILE).read_text())
    document["files"]["maps.onnx"] = sha256_of(bundle / "maps.onnx")
    (bundle / MODEL_FILE).write_text(json.dumps(document))
    with pytest.raises(CheckpointError, match="cannot be loaded by ONNX Runtime") as caught:
        Predictor.load(bundle)
    assert "\n" not in str(caught.value)


def test_a_model_that_differs_from_torch_is_not_written(tmp_path, monkeypatch):
    monkeypatch.setattr(export, "EXACT", replace(EXACT, box_px=-1.0))
    with pytest.raises(CheckpointError, match=r"differs from torch on 6 phantoms: a box differs by .* \(limit -1\)"):
        export_model(str(checkpoint_of("faster")), tmp_path / "out", ExportOptions(format=Format.onnx))
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten_unasked(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("years of work")
    with pytest.raises(UsageError, match="--force"):
        export_model(str(checkpoint_of("faster")), tmp_path / "out", ExportOptions(format=Format.onnx))
    with pytest.raises(UsageError, match="holds no exported model"):
        export_model(str(checkpoint_of("faster")), tmp_path / "out", ExportOptions(format=Format.onnx, force=True))
    assert (tmp_path / "out" / "thesis.tex").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (ExportOptions(format=Format.onnx, int8=True), "use --format openvino"),
        (ExportOptions(format=Format.openvino, int8=True), "needs --calibration"),
    ],
)
def test_options_that_do_not_go_together(tmp_path, options, message):
    with pytest.raises(UsageError, match=message):
        export_model("a.pth", tmp_path / "out", options)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["retina", "faster"])
def test_eight_bits(tmp_path, kind):
    """Both graphs are quantised, the file shrinks, and what is found stays near."""
    pytest.importorskip("nncf")
    for seed in range(8):
        write_picture(tmp_path / "calibration" / f"{seed}.png", 150, 140, seed)
    calibration = tuple(find_items([str(tmp_path / "calibration")]))
    options = ExportOptions(format=Format.openvino, int8=True, calibration=calibration)
    bundle = export_model(str(checkpoint_of(kind)), tmp_path / "int8", options)
    small, large = (
        sum(file.stat().st_size for file in folder.glob("*.bin"))
        for folder in (tmp_path / "int8", bundle_of(kind, "openvino"))
    )
    assert bundle.box_depth == 0
    assert small < 0.5 * large
    picture = write_picture(tmp_path / "a.png", 150, 140, 3)
    exact, rough = (Predictor.load(path).predict(picture) for path in (bundle_of(kind, "openvino"), tmp_path / "int8"))
    assert abs(len(exact) - len(rough)) < 0.5 * len(exact)
    assert exact.p_abnormal == pytest.approx(rough.p_abnormal, abs=0.25)
