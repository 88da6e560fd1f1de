"""Export in eight bits: what it is calibrated on and judged by, which layers stay exact, and when it is refused."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from detectors import bundle_of, checkpoint_of, write_image

from cxr_mmdet.errors import CheckpointError, DatasetError, UsageError
from cxr_mmdet.files import write_json
from cxr_mmdet.inference.bundle import Bundle
from cxr_mmdet.inference.export import export, int8
from cxr_mmdet.inference.export.export import ExportOptions, export_model
from cxr_mmdet.inference.export.parity import Parity, user_set
from cxr_mmdet.inference.predictor import Predictor
from cxr_mmdet.structures.detections import Findings
from cxr_mmdet.structures.enums import ExportFormat
from cxr_mmdet.structures.radiograph_files import find_radiographs

nncf = pytest.importorskip("nncf")
openvino = pytest.importorskip("openvino")

OPTIONS = ExportOptions(format=ExportFormat.OPENVINO, int8=True, max_loss=1.0)


@pytest.fixture
def prepared(tmp_path):
    """Return a function that writes a prepared folder whose truth is what a detector finds."""

    def write(kind):
        predictor = Predictor.load(bundle_of(kind, "openvino"))
        folder = tmp_path / "prepared"
        images, annotations = [], []
        for number in range(1, 5):
            file = write_image(folder / "images" / f"{number}.png", 150, 140, number)
            found = predictor.predict(file).to_coco(number, range(1, 6))
            images.append(
                {"id": number, "file_name": file.name, "width": 140, "height": 150, "group": f"p{number % 3}"}
            )
            annotations += [entry | {"area": 1, "iscrowd": 0} for entry in sorted(found, key=lambda e: -e["score"])[:5]]
        coco = {
            "images": images,
            "annotations": [entry | {"id": place} for place, entry in enumerate(annotations, 1)],
            "categories": [{"id": place, "name": name} for place, name in enumerate(predictor.class_names, 1)],
        }
        for split in ("train", "val"):
            write_json(folder / "annotations" / f"{split}_5.json", coco)
        return folder

    return write


@pytest.fixture
def nothing_quantised(monkeypatch):
    """Leave the graphs as they are, and return the arguments of the quantisation."""
    seen = []

    def stub(*args, **options):
        seen.append((*args, options))
        return int8.Quantisation(4, 4, 9, ("maps/head/Conv",))

    monkeypatch.setattr(int8, "quantise", stub)
    return seen


def graph_with_an_outlier():
    """Return three convolutions; one channel between the last two is a thousand times as large as the others."""
    from openvino import opset13 as ops

    rng = np.random.default_rng(0)
    image = ops.parameter([1, 3, 8, 8], np.float32, name="image")
    node, scale = image, np.ones(16, np.float32)
    for place in range(3):
        weights = rng.normal(0, 0.3, (16, 3 if place == 0 else 16, 3, 3)).astype(np.float32)
        weights /= scale[None, : weights.shape[1], None, None]
        scale = np.ones(16, np.float32)
        scale[5] = 1000 if place == 1 else 1
        weights *= scale[:, None, None, None]
        node = ops.convolution(node, ops.constant(weights), [1, 1], [1, 1], [1, 1], [1, 1], name=f"conv_{place}")
        node = ops.relu(node)
    return openvino.Model([ops.result(node)], [image], "tiny")


@pytest.mark.parametrize(("max_drop", "kept"), [(10.0, []), (0.2, ["conv_2"])])
def test_the_layer_that_loses_stays_in_single_precision(max_drop, kept):
    model = graph_with_an_outlier()
    inputs = [{"image": np.random.default_rng(seed).normal(size=(1, 3, 8, 8)).astype(np.float32)} for seed in range(4)]
    exact = openvino.compile_model(model, "CPU")
    expected = [exact(each)[0] for each in inputs]

    def judge(compiled, numbers):
        losses = [np.abs(compiled(inputs[n])[0] - expected[n]).mean() / np.abs(expected[n]).mean() for n in numbers]
        return -float(np.mean(losses)), [-float(loss) for loss in losses]

    quantised = int8.quantise_graph(model, inputs, len(inputs), (judge, len(inputs)), max_drop=max_drop)
    layers = dict(int8.layers_of(quantised))
    assert list(layers) == ["conv_0", "conv_1", "conv_2"]
    assert [name for name, exact in layers.items() if exact] == kept


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["retina", "faster"])
def test_every_graph_is_quantised_and_what_is_found_stays_near(tmp_path, prepared, kind):
    bundle = export_model(str(checkpoint_of(kind)), tmp_path / "int8", replace(OPTIONS, data_root=prepared(kind)))
    small, large = (
        sum(file.stat().st_size for file in folder.glob("*.bin"))
        for folder in (bundle.path, bundle_of(kind, "openvino"))
    )
    assert bundle.box_depth == 0
    assert small < 0.5 * large
    image = write_image(tmp_path / "a.png", 150, 140, 3)
    exact, rough = (Predictor.load(path).predict(image) for path in (bundle_of(kind, "openvino"), bundle.path))
    assert abs(len(exact) - len(rough)) < 0.5 * len(exact)
    assert exact.p_abnormal == pytest.approx(rough.p_abnormal, abs=0.25)
    facts = json.loads((bundle.path / "model.json").read_text())["parity"]["quantisation"]
    assert facts["single_precision"] == []
    assert facts["layers"] > 20


def test_the_images_of_the_prepared_folder_and_what_the_bundle_says(tmp_path, prepared, nothing_quantised):
    data = prepared("retina")
    bundle = export_model(str(checkpoint_of("retina")), tmp_path / "int8", replace(OPTIONS, data_root=data))
    _, calibration, control, options = nothing_quantised[0]
    assert [item.image_id for item in calibration] == ["1", "2", "3", "4"]
    assert len(control.truth["annotations"]) == 20
    assert options == {"max_loss": 1.0}
    parity = json.loads((bundle.path / "model.json").read_text())["parity"]
    assert parity["limits"]["mean_ap"] == 1.0
    phantoms, val = parity["sets"]
    assert phantoms["loss"] is None, "six phantoms judge nothing"
    assert val["loss"]["bootstrap"]["groups"] == 3
    scores = val["loss"]["mean_ap"]
    assert scores["first"]["value"] == scores["second"]["value"] == pytest.approx(val["mean_ap"])
    assert scores["difference"] == {"value": 0.0, "low": 0.0, "high": 0.0}
    assert [entry["name"] for entry in val["loss"]["per_class"]] == list(bundle.class_names)
    card = (bundle.path / "MODEL_CARD.md").read_text()
    assert (
        "1 of 9 layers stay in single precision: maps/head/Conv. They were chosen by the mAP of 4 radiographs" in card
    )
    assert f"| mAP@[.5:.95] | {val['mean_ap']:.3f} | {val['mean_ap']:.3f} | +0.0000 (+0.0000…+0.0000) |" in card
    assert "| AP of ILD |" in card


def test_beyond_the_loss_nothing_is_written(tmp_path, prepared, nothing_quantised, monkeypatch):
    lost = Parity("lungs", 4, 20, 0, 1.0, 0.1, reference_mean_ap=0.5, mean_ap=0.49)
    monkeypatch.setattr(export, "_compare", lambda *args: [lost])
    options = replace(OPTIONS, data_root=prepared("retina"), max_loss=0.005)
    with pytest.raises(
        CheckpointError, match=r"the mAP falls by 0\.0100 \(limit 0\.005\)\. Nothing was written; .*--max-loss"
    ):
        export_model(str(checkpoint_of("retina")), tmp_path / "int8", options)
    assert [path.name for path in tmp_path.iterdir()] == ["prepared"]


def test_without_the_folder_of_the_training(tmp_path, prepared):
    source = str(checkpoint_of("retina"))
    with pytest.raises(UsageError, match=r"has no annotations/val_5\.json; pass --data-root .* or --check FILE"):
        export_model(source, tmp_path / "int8", OPTIONS)
    check = prepared("retina") / "annotations" / "val_5.json"
    with pytest.raises(UsageError, match=r"has no annotations/train_5\.json; .* or --calibration DIR"):
        export_model(source, tmp_path / "int8", replace(OPTIONS, check=check))
    write_json(check, json.loads(check.read_text()) | {"annotations": []})
    with pytest.raises(UsageError, match="holds no box, and eight bits are judged by mAP"):
        export_model(source, tmp_path / "int8", replace(OPTIONS, check=check))


def test_a_detector_that_finds_too_little_to_lose_is_not_judged(prepared):
    """A mAP of nothing cannot fall, so that any eight bits would have passed."""
    data = prepared("retina")
    file = data / "annotations" / "val_5.json"
    coco = json.loads(file.read_text())
    coco["annotations"] = [entry | {"bbox": [138, 148, 1, 1]} for entry in coco["annotations"]]
    write_json(file, coco)
    bundle = Bundle.open(bundle_of("retina", "openvino"))
    control = user_set(file, bundle.class_names)
    with pytest.raises(
        CheckpointError,
        match=r"cannot be judged on 4 radiographs of prepared, where the mAP .* is 0\.0000, no more than .*0\.005",
    ):
        int8.quantise(bundle, control.items, control, max_loss=0.005)


def test_prediction_works_while_inputs_are_drawn(tmp_path):
    """NNCF takes as many inputs as it wants and may leave the others: the backend is never left recording."""
    predictor = Predictor.load(bundle_of("faster", "openvino"))
    run = predictor.model.backend.run
    files = find_radiographs([str(write_image(tmp_path / f"{number}.png", seed=number)) for number in range(2)])
    for name, wanted in (("maps", {"image"}), ("regions", {"pooled"})):
        drawn = iter(int8._Inputs(predictor, name, files))
        assert next(drawn).keys() == wanted
        assert predictor.model.backend.run is run


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_prepared_folder_whose_images_are_gone(tmp_path, prepared, split):
    data = prepared("retina")
    file = data / "annotations" / f"{split}_5.json"
    coco = json.loads(file.read_text())
    coco["images"][2]["file_name"] = "gone.png"
    write_json(file, coco)
    with pytest.raises(DatasetError, match=rf"{split}_5\.json: its image .*gone\.png is missing"):
        export_model(str(checkpoint_of("retina")), tmp_path / "int8", replace(OPTIONS, data_root=data))
    assert [path.name for path in tmp_path.iterdir()] == ["prepared"]


def test_agreement_with_the_exact_findings():
    def findings(*entries):
        boxes, labels, scores = zip(*entries, strict=True) if entries else ([], [], [])
        boxes = np.array(boxes, float).reshape(-1, 4)
        return Findings(boxes, np.array(labels, int), np.array(scores, float), ("a", "b"), size_hw=(9, 9), model_id="m")

    first, second = ((0, 0, 4, 4), 0, 0.8), ((4, 4, 8, 8), 1, 0.2)
    exact = findings(first, second)
    assert int8.agreement(exact, exact) == 1
    assert int8.agreement(findings(), exact) == 1
    assert int8.agreement(exact, findings()) == 0
    assert int8.agreement(exact, findings(first)) == pytest.approx(0.8)
    assert int8.agreement(exact, findings(first, ((4, 4, 8, 8), 0, 0.2))) == pytest.approx(0.8), "another class"
    assert int8.agreement(exact, findings(((0, 0, 4, 2), 0, 0.4), second)) == pytest.approx(0.8 / 2 / 2 + 0.2)


def test_some_of_the_radiographs(prepared):
    path = prepared("retina") / "annotations" / "val_5.json"
    chosen = user_set(path, ["ILD", "Nodule/Mass"]).some(2)
    assert [item.image_id for item in chosen.items] == ["1", "4"]
    assert [image["id"] for image in chosen.truth["images"]] == [1, 2]
    assert {entry["image_id"] for entry in chosen.truth["annotations"]} <= {1, 2}
    assert chosen.items[1].path.name == "4.png"
