"""Exported models: what they hold, what breaks them, and that they need neither torch nor mmdet."""

from __future__ import annotations

import json
import re
import resource
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import modern
import onnxruntime
import pytest
from detectors import bundle_of, checkpoint_of, write_image

from cxr_mmdet.batch.run import RunOptions, predict_many
from cxr_mmdet.errors import CheckpointError, CxrError, UsageError
from cxr_mmdet.inference.bundle import MODEL_FILE, Bundle, sha256_of
from cxr_mmdet.inference.export import export
from cxr_mmdet.inference.export.export import ExportOptions, export_model
from cxr_mmdet.inference.export.model_card import summarise
from cxr_mmdet.inference.export.parity import EXACT
from cxr_mmdet.inference.predictor import Predictor
from cxr_mmdet.structures.enums import ExportFormat
from cxr_mmdet.structures.radiograph_files import find_radiographs

ROOT = Path(__file__).resolve().parents[2]
UNCHECKED = ExportOptions(format=ExportFormat.ONNX, compare=False)
FORBIDDEN = ("torch", "torchvision", "mmdet", "mmcv", "mmengine")


@pytest.fixture
def bundle(tmp_path):
    return Path(shutil.copytree(bundle_of("faster", "onnx"), tmp_path / "bundle"))


def sign(bundle, name):
    """List a file with the hash that it has now, as whoever makes up a bundle would."""
    document = json.loads((bundle / MODEL_FILE).read_text())
    document["files"][name] = sha256_of(bundle / name)
    (bundle / MODEL_FILE).write_text(json.dumps(document))


@pytest.mark.parametrize("form", ["onnx", "openvino"])
def test_an_exported_model_predicts_without_torch_and_mmdet(tmp_path, form):
    image = write_image(tmp_path / "a.png")
    script = (
        "import json, sys\n"
        "from cxr_mmdet.inference.predictor import Predictor\n"
        f"found = Predictor.load({str(bundle_of('faster', form))!r}).predict({str(image)!r})\n"
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
    assert phantoms["images"] == 6
    assert phantoms["findings"] > 20, "or the comparison says nothing"
    assert phantoms["unmatched"] == 0
    assert phantoms["largest_box_difference_px"] < EXACT.box_px
    assert phantoms["mean_ap"] == pytest.approx(phantoms["reference_mean_ap"], abs=1e-3)
    card = (path / "MODEL_CARD.md").read_text()
    assert "not a medical device" in card
    assert "| 6 phantoms |" in card


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"load_from": "/home/someone/weights/retina_small.safetensors"}, {"start": "retina_small.safetensors"}),
        ({"load_from": "https://models.org/a.pth"}, {"start": "https://models.org/a.pth"}),
        ({"load_from": None}, {"start": "random weights"}),
        ({"load_from": "/home/someone/run/iter_9.pth", "resume": True}, {"resumed": "yes"}),
    ],
)
def test_the_start_of_a_training_is_told_without_a_path(config, told):
    assert summarise({"iter": 9}, config) == {"iter": 9, **told}


@pytest.mark.parametrize("kind", ["retina_wide", "gfl", "faster", "atss", "rtmdet_s", "cascade_rcnn", "dino_r50"])
def test_the_card_names_every_output_and_threshold(kind):
    path = (bundle_of if kind in ("retina_wide", "gfl", "faster") else modern.bundle_of)(kind, "onnx")
    card = (path / "MODEL_CARD.md").read_text()
    named = []
    for graph, first, last in re.findall(
        r"^\| (maps|boxes|regions\w*) \| (\w+)(?: … \w+_(\d+))? \|", card, re.MULTILINE
    ):
        names = [f"{first.removesuffix('_0')}_{level}" for level in range(int(last) + 1)] if last else [first]
        named += [(graph, name) for name in names]
    graphs = {graph: onnxruntime.InferenceSession(path / f"{graph}.onnx") for graph, _ in named}
    assert named == [(graph, output.name) for graph in graphs for output in graphs[graph].get_outputs()]
    assert {f"{graph}.onnx" for graph in graphs} == {file.name for file in path.glob("*.onnx")}
    spec = Bundle.open(path).spec
    assert f"exceed{'s' * (spec.regions is None)} {spec.score_threshold:g}." in card
    nms = f"NMS within each class at IoU {spec.nms_iou:g} leaves at most {spec.max_per_image} findings."
    assert (nms in card) == spec.nms_is_adjustable
    assert str(spec.max_per_image) in card


@pytest.mark.parametrize("kind", ["faster", "cascade_rcnn", "dino_r50"])
def test_a_bundle_travels_as_json(kind):
    opened = Bundle.open((bundle_of if kind == "faster" else modern.bundle_of)(kind, "onnx"))
    again = replace(opened, spec=type(opened.spec).from_json(json.loads(json.dumps(opened.spec.to_json()))))
    assert again == opened


def test_two_exports_of_one_checkpoint_are_two_models(tmp_path):
    """Two calibrations had one id, so that `predict` with the second continued the results of the first."""
    first, same, second = (
        export_model(str(checkpoint_of("retina")), tmp_path / name, replace(UNCHECKED, winograd=winograd))
        for name, winograd in (("first", True), ("same", True), ("second", False))
    )
    assert first.model_id == same.model_id != second.model_id
    assert Predictor.load(first.path).model_id == first.model_id
    items = find_radiographs([write_image(tmp_path / "a.png")])
    predict_many(Predictor.load(first.path), items, tmp_path / "out", RunOptions())
    with pytest.raises(UsageError, match="holds results of another model"):
        predict_many(Predictor.load(second.path), items, tmp_path / "out", RunOptions())


def test_a_bundle_of_an_earlier_version_gets_the_id_of_its_weights(bundle):
    expected = Bundle.open(bundle)
    document = json.loads((bundle / MODEL_FILE).read_text())
    assert document["model_id"] == expected.model_id
    document["model_id"] = expected.name
    (bundle / MODEL_FILE).write_text(json.dumps(document))
    assert Bundle.open(bundle) == expected


@pytest.mark.parametrize("kind", ["cascade_rcnn", "dino_r50"])
def test_a_bundle_states_the_limits_it_was_held_to(kind):
    parity = Bundle.open(modern.bundle_of(kind, "onnx")).parity
    assert parity["limits"] == vars(EXACT)
    (order,) = {entry["largest_order_difference"] for entry in parity["sets"]}
    assert order is None if kind == "cascade_rcnn" else 0 <= order < EXACT.order


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
        (lambda document: document.update(files={}), "files does not list maps.onnx, regions.onnx"),
        (lambda document: document["files"].update({"../../etc/passwd": "0"}), "is missing from the bundle"),
        (lambda document: document["files"].update({"/etc/passwd": "0"}), "is missing from the bundle"),
        (lambda document: document["files"].pop("regions.onnx"), "files does not list regions.onnx"),
        (lambda document: document.update(format="openvino"), "files does not list maps.bin, maps.xml"),
        (lambda document: document.update(format="torch"), "files does not list architecture.json"),
        (lambda document: document.update(labels=[]), "labels must be at least one"),
        (lambda document: document.update(labels=["a"] * 5), "each different"),
        (lambda document: document.update(labels=["a", 3]), "must be names, got 3"),
        (lambda document: document["labels"].pop(), "6 channels, model.json with its 4 labels describes 5"),
        (lambda document: document.update(int8="no"), "int8 is 'no', expected true or false"),
        (lambda document: document.update(box_depth=1), "files does not list boxes.onnx"),
        (lambda document: document.update(box_depth=-1), "box_depth is -1"),
        (lambda document: document.update(parity=[]), "parity must be an object"),
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


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (["maps", "strides", 0, 0], 0, "strides is 0"),
        (["maps", "strides", 0, 1], -8, "strides is -8"),
        (["maps", "strides", 0, 1], 8.5, "strides is 8.5"),
        (["maps", "strides"], [], "4 levels, strides has 0"),
        (["maps", "base_anchors", 0, 0, 2], -99, "which has no extent"),
        (["maps", "base_anchors", 0], [], "a level of base_anchors is empty"),
        (["maps", "base_anchors", 0], [[0, 0, 1, 1]], "has 3 channels, model.json with its 5 labels describes 1"),
        (["maps", "channels"], 0, "channels is 0"),
        (["maps", "activation"], "relu", "activation is 'relu'"),
        (["maps", "nms_pre"], -2, "nms_pre is -2"),
        (["maps", "centerness"], 1, "centerness is 1, expected true or false"),
        (["maps", "centerness"], True, "deltas_0 .* has 12 channels, model.json with its 5 labels describes 15"),
        (["maps", "coder", "stds", 0], 0, "stds is 0"),
        (["maps", "coder", "means", 0], "0", "means is '0'"),
        (["regions", "score_threshold"], 1.5, "score_threshold is 1.5"),
        (["regions", "score_threshold"], 1, "score_threshold is 1"),
        (["regions", "score_threshold"], None, "score_threshold is None"),
        (["regions", "nms_iou"], -0.1, "nms_iou is -0.1"),
        (["regions", "max_per_image"], 0, "max_per_image is 0"),
        (["regions", "levels"], 9, "levels is 9"),
        (["regions", "finest_scale"], 0, "finest_scale is 0"),
        (["regions", "class_agnostic"], True, "has 20 channels, model.json with its 5 labels describes 4"),
        (["regions", "class_agnostic"], 1, "class_agnostic is 1"),
        (["regions", "pooling", "size_hw", 0], 10**9, "size_hw is 1000000000"),
        (["regions", "pooling", "strides", 0], 0, "strides is 0"),
    ],
)
def test_a_number_of_the_detector_that_cannot_be(bundle, place, value, message):
    document = json.loads((bundle / MODEL_FILE).read_text())
    part = document["detector"]
    for key in place[:-1]:
        part = part[key]
    part[place[-1]] = value
    (bundle / MODEL_FILE).write_text(json.dumps(document))
    with pytest.raises(CheckpointError, match=message):
        Predictor.load(bundle)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"short_edge": -1}, "short_edge is -1"),
        ({"scale": [0, 0]}, "scale is 0"),
        ({"scale": [10**6, 10**6]}, "scale is 1000000"),
        ({"std": [0, 1, 1]}, "std is 0"),
        ({"std": [1, 1]}, "mean has 3 numbers, std has 2"),
        ({"mean": [0], "std": [1]}, "mean has 1 number, expected 3"),
        ({"size_divisor": 0}, "size_divisor is 0"),
        ({"keep_ratio": "no"}, "keep_ratio is 'no'"),
    ],
)
def test_a_number_of_the_preprocessing_that_cannot_be(bundle, change, message):
    document = json.loads((bundle / MODEL_FILE).read_text())
    document["preprocessing"].update(change)
    (bundle / MODEL_FILE).write_text(json.dumps(document))
    with pytest.raises(CheckpointError, match=message):
        Predictor.load(bundle)


@pytest.mark.parametrize("constant", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_a_number_that_is_none(bundle, constant):
    """NaN as the score threshold found nothing in any radiograph."""
    text = (bundle / MODEL_FILE).read_text()
    start = text.index('"score_threshold": ', text.index('"regions"'))
    end = text.index("\n", start)
    (bundle / MODEL_FILE).write_text(text[:start] + f'"score_threshold": {constant}' + text[end:].lstrip(","))
    with pytest.raises(CheckpointError, match=f"{MODEL_FILE}: is not JSON .it holds|score_threshold is inf"):
        Predictor.load(bundle)


@pytest.mark.parametrize(("kind", "form"), [("retina", "onnx"), ("retina", "openvino"), ("faster", "torch")])
def test_too_few_labels(tmp_path, kind, form):
    """A class without a label was a traceback on the first radiograph that showed it."""
    bundle = Path(shutil.copytree(bundle_of(kind, form), tmp_path / "bundle"))
    document = json.loads((bundle / MODEL_FILE).read_text())
    del document["labels"][3:]
    (bundle / MODEL_FILE).write_text(json.dumps(document))
    with pytest.raises(CheckpointError, match=r"labels has 3 names|names 3 classes, its network scores 5"):
        Predictor.load(bundle)


def test_the_gate_is_checked_too(tmp_path):
    bundle = Path(shutil.copytree(bundle_of("retina_gate", "onnx"), tmp_path / "bundle"))
    document = json.loads((bundle / MODEL_FILE).read_text())
    for change, message in (({"cut": 2}, "cut is 2"), ({"exponent": 0}, "exponent is 0"), ({"score_mode": "x"}, "'x'")):
        changed = document | {"detector": document["detector"] | {"gate": document["detector"]["gate"] | change}}
        (bundle / MODEL_FILE).write_text(json.dumps(changed))
        with pytest.raises(CheckpointError, match=message):
            Predictor.load(bundle)


def test_data_outside_an_onnx_file_is_listed_like_all_others(bundle):
    onnx = pytest.importorskip("onnx")
    model = onnx.load(bundle / "regions.onnx")
    onnx.save_model(model, bundle / "regions.onnx", save_as_external_data=True, location="numbers", size_threshold=0)
    sign(bundle, "regions.onnx")
    with pytest.raises(
        CheckpointError, match=r"regions\.onnx: keeps numbers in numbers, which model\.json does not list"
    ):
        Predictor.load(bundle)
    sign(bundle, "numbers")
    Predictor.load(bundle)
    (bundle / "numbers").write_bytes(bytes((bundle / "numbers").stat().st_size))
    with pytest.raises(CheckpointError, match="is not the file this bundle was written with"):
        Predictor.load(bundle)


@pytest.mark.parametrize("name", ["onnx", "onnxruntime"])
def test_an_onnx_bundle_is_not_run_unchecked(bundle, monkeypatch, name):
    """Without the package onnx, a bias of minus infinity predicted, and numbers in files without a hash were read."""
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UsageError, match=rf"needs the package {name}; install it by pip install cxr-mmdet\[onnx\]"):
        Predictor.load(bundle)


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
@pytest.mark.parametrize("form", ["onnx", "openvino", "torch"])
def test_weights_that_are_not_finite(tmp_path, form, number):
    """They predicted a normal chest."""
    import numpy as np

    bundle = Path(shutil.copytree(bundle_of("faster", form), tmp_path / "bundle"))
    name = {"onnx": "regions.onnx", "openvino": "regions.bin", "torch": "weights.safetensors"}[form]
    if form == "onnx":
        onnx = pytest.importorskip("onnx")
        model = onnx.load(bundle / name)
        (tensor,) = [tensor for tensor in model.graph.initializer if tensor.name.endswith("fc_cls.bias")]
        values = onnx.numpy_helper.to_array(tensor).copy()
        values[-1] = number
        tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
        onnx.save(model, bundle / name)
    else:
        # The last number of each file is one of a weight.
        data = bytearray((bundle / name).read_bytes())
        end = len(data) if form == "torch" else len(data) // 4 * 4 // 2 // 4 * 4
        data[end - 4 : end] = np.float32(number).tobytes()
        (bundle / name).write_bytes(bytes(data))
    sign(bundle, name)
    with pytest.raises(CheckpointError, match=rf"{name.split('.')[0]}\.\w+: holds weights that are not finite"):
        Predictor.load(bundle)


@pytest.mark.parametrize("text", ["", "{", "[]", "\x00"])
def test_a_description_that_is_no_json(bundle, text):
    (bundle / MODEL_FILE).write_text(text)
    with pytest.raises(CheckpointError, match=MODEL_FILE):
        Predictor.load(bundle)


def test_a_graph_that_the_runtime_refuses(bundle):
    (bundle / "maps.onnx").write_bytes(b"no graph")
    sign(bundle, "maps.onnx")
    with pytest.raises(CheckpointError, match="cannot be loaded by ONNX Runtime") as caught:
        Predictor.load(bundle)
    assert "\n" not in str(caught.value)


def test_a_model_that_differs_from_torch_is_not_written(tmp_path, monkeypatch):
    monkeypatch.setattr(export, "EXACT", replace(EXACT, box_px=-1.0))
    with pytest.raises(CheckpointError, match=r"differs from torch on 6 phantoms: a box differs by .* \(limit -1\)"):
        export_model(str(checkpoint_of("faster")), tmp_path / "out", ExportOptions(format=ExportFormat.ONNX))
    assert list(tmp_path.iterdir()) == []


@contextmanager
def full_disk(size=100_000):
    """Let no file grow beyond a size: as on a full disk, writing fails in the middle."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("form", list(ExportFormat))
def test_a_full_disk_leaves_the_earlier_bundle_and_nothing_else(tmp_path, bundle, form):
    source = str(checkpoint_of("faster"))
    before = {path.name: path.read_bytes() for path in bundle.iterdir()}
    with full_disk(), pytest.raises(CxrError, match=rf"{bundle}: cannot be written \(.*\); make room or .* --out\."):
        export_model(source, bundle, ExportOptions(format=form, force=True))
    assert list(tmp_path.iterdir()) == [bundle]
    assert {path.name: path.read_bytes() for path in bundle.iterdir()} == before


def test_openvino_on_a_full_disk(bundle):
    pytest.importorskip("openvino")
    from cxr_mmdet.inference.export.formats import export_openvino

    with full_disk(), pytest.raises(OSError, match=r"OpenVINO cannot write maps\.xml"):
        export_openvino([bundle / "maps.onnx"])


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    out = tmp_path / "file" / "sub" / "bundle"
    with pytest.raises(CxrError, match=rf"{out}: cannot be written \(Not a directory\); .* choose another --out"):
        export_model(str(checkpoint_of("retina")), out, ExportOptions(format=ExportFormat.ONNX))


def test_an_earlier_bundle_is_replaced(tmp_path, bundle):
    export_model(
        str(checkpoint_of("retina")), bundle, ExportOptions(format=ExportFormat.TORCH, force=True, compare=False)
    )
    assert Bundle.open(bundle).format == "torch"
    assert list(tmp_path.iterdir()) == [bundle]


def test_what_a_killed_export_left_goes_at_the_next(tmp_path):
    left, strange = tmp_path / ".bundle.export-abcd1234", tmp_path / ".bundle-of-mine"
    for folder in (left, strange):
        folder.mkdir()
        (folder / "weights").write_bytes(b"half")
    options = ExportOptions(format=ExportFormat.TORCH, compare=False)
    export_model(str(checkpoint_of("retina")), tmp_path / "bundle", options)
    assert set(tmp_path.iterdir()) == {tmp_path / "bundle", strange}


def test_nothing_is_overwritten_unasked(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("years of work")
    with pytest.raises(UsageError, match="--force"):
        export_model(str(checkpoint_of("faster")), tmp_path / "out", ExportOptions(format=ExportFormat.ONNX))
    with pytest.raises(UsageError, match="holds no exported model"):
        export_model(
            str(checkpoint_of("faster")), tmp_path / "out", ExportOptions(format=ExportFormat.ONNX, force=True)
        )
    assert (tmp_path / "out" / "thesis.tex").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (ExportOptions(format=ExportFormat.ONNX, int8=True), "use --format openvino"),
    ],
)
def test_options_that_do_not_go_together(tmp_path, options, message):
    with pytest.raises(UsageError, match=message):
        export_model("a.pth", tmp_path / "out", options)
