"""p_abnormal of a gate and what it does to findings, the same from mmdet, from checkpoints and from bundles."""

from __future__ import annotations

import functools
import json
import math
from dataclasses import replace

import numpy as np
import pytest
from detectors import GATED_KINDS, bundle_of, checkpoint_of, mmdet_result, write_image

from cxr_mmdet.batch.run import RunOptions, predict_many
from cxr_mmdet.dicom.radiograph import read_radiograph
from cxr_mmdet.errors import CheckpointError
from cxr_mmdet.evaluation.image_level import p_abnormal_path, read_p_abnormal, write_p_abnormal
from cxr_mmdet.inference.backends import base as backend
from cxr_mmdet.inference.bundle import MODEL_FILE, Bundle
from cxr_mmdet.inference.candidates import FLOOR, find_candidates
from cxr_mmdet.inference.cpu_kernels.on_demand import WholeMaps
from cxr_mmdet.inference.export.export import ExportOptions, export_model
from cxr_mmdet.inference.export.parity import EXACT, compare_findings, quantised_limits
from cxr_mmdet.inference.fusion import Ensemble, mean_p_abnormal
from cxr_mmdet.inference.predictor import Augmentation, AugmentationView, Predictor, Thresholds
from cxr_mmdet.models.gate_rule import GateRule
from cxr_mmdet.structures.detections import Detections, Findings
from cxr_mmdet.structures.enums import ExportFormat
from cxr_mmdet.structures.radiograph_files import find_radiographs

SEEDS = range(4)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Return images of which the cutting gate finds some normal, others not."""
    folder = tmp_path_factory.mktemp("images")
    return [write_image(folder / f"p{seed}.png", 150, 120, seed) for seed in SEEDS]


@functools.cache
def mmdet_says(kind: str, path):
    return mmdet_result(kind, path)


def assert_findings_of_mmdet(kind: str, found: Findings, path) -> None:
    expected = mmdet_says(kind, path)
    assert found.p_abnormal == pytest.approx(expected.p_abnormal, abs=1e-4)
    instances = expected.pred_instances
    boxes = instances.bboxes.numpy()
    kept = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    assert len(found) == kept.sum()
    np.testing.assert_allclose(found.scores, instances.scores.numpy()[kept], atol=1e-4)
    assert sorted(found.labels.tolist()) == sorted(instances.labels.numpy()[kept].tolist())


# OpenVINO's graphs are made of ONNX's: one for each place that a gate may read, and one with a box branch of its own.
BACKENDS = [(kind, form) for form in (None, "onnx", "torch") for kind in GATED_KINDS]
BACKENDS += [(kind, "openvino") for kind in ("retina_gate", "wide_scores", "faster_gate")]


@pytest.mark.parametrize(("kind", "form"), BACKENDS)
def test_every_backend_says_what_mmdet_says(images, kind, form):
    predictor = Predictor.load(bundle_of(kind, form) if form else checkpoint_of(kind))
    found = predictor.predict(images)
    for path, findings in zip(images, found, strict=True):
        assert_findings_of_mmdet(kind, findings, path)
    together = predictor.predict(images, batch_size=4)
    assert [one.p_abnormal for one in together] == pytest.approx([one.p_abnormal for one in found], abs=1e-4)


def test_the_images_are_of_both_kinds(images):
    found = Predictor.load(checkpoint_of("faster_gate")).predict(images)
    cut = [len(one) == 0 for one in found]
    assert cut == [one.p_abnormal < 0.8 for one in found]
    assert 0 < sum(cut) < len(cut)


def test_multiplied_scores_are_below_p_abnormal_and_above_the_threshold(images):
    predictor = Predictor.load(checkpoint_of("retina_gate"))
    for found in predictor.predict(images):
        assert found.scores.max() <= found.p_abnormal
        assert found.scores.min() > predictor.model.spec.score_threshold


@pytest.mark.parametrize("mode", ["leave", "multiply", "cut"])
def test_score_modes_by_hand(mode, monkeypatch):
    """p_abnormal is 0.25, below a cut of 0.3; the threshold is 0.1, and 0.2 for the second class."""

    class Maps:
        def maps(self, batch):
            return [], WholeMaps([]), None, np.array([math.log(1 / 3)], dtype=np.float32)

    found = Detections(
        np.zeros((4, 4), np.float32), np.array([0, 1, 0, 1]), np.array([0.8, 0.76, 0.36, 0.24], np.float32)
    )
    spec = replace(Predictor.load(checkpoint_of("retina_gate")).model.spec, gate=GateRule.of(mode, 0.3))
    monkeypatch.setattr(backend.decoding, "decode_maps", lambda *_: found)
    limits = np.array([0.1, 0.2], np.float32)
    (left,) = backend.find_candidates(Maps(), spec, np.zeros((1, 3, 8, 8), np.float32), [(8, 8)], limits)
    expected = {"leave": [0.8, 0.76, 0.36, 0.24], "multiply": [0.8 * 0.25], "cut": []}[mode]
    assert left.scores.tolist() == pytest.approx(expected, rel=1e-6)
    assert left.p_abnormal == pytest.approx(0.25, rel=1e-6)


@pytest.mark.parametrize("kind", GATED_KINDS)
def test_thresholds_on_candidates_act_as_predicting_again(images, kind):
    predictor = Predictor.load(checkpoint_of(kind))
    counts = set()
    for path in images:
        radiograph = read_radiograph(path)
        candidates = find_candidates(predictor, radiograph)
        for score in (FLOOR, 0.05, 0.1, 0.5):
            (expected,) = predictor.predict_radiographs([radiograph], Thresholds(score))
            found = candidates.findings(Thresholds(score))
            assert found.to_json() == expected.to_json()
            counts.add(len(found))
    assert len(counts) > 1


def test_no_finding_leaves_the_gates_word(images):
    predictor = Predictor.load(checkpoint_of("retina_gate"))
    (usual, nothing) = predictor.predict(images[0]), predictor.predict(images[0], score_threshold=1.0)
    assert len(nothing) == 0
    assert nothing.p_abnormal == usual.p_abnormal > 0
    assert nothing.to_json()["p_abnormal"] == nothing.p_abnormal


def test_several_views_are_averaged(images):
    predictor = Predictor.load(checkpoint_of("retina_gate"))
    views = AugmentationView(), AugmentationView(1.5), AugmentationView(flip=True)
    each = [predictor.predict(images[0], augmentation=Augmentation((view,))).p_abnormal for view in views]
    assert len(set(each)) == 3
    together = predictor.predict(images[0], augmentation=Augmentation(views))
    assert together.p_abnormal == pytest.approx(sum(each) / 3)


def test_members_with_a_gate_answer_for_an_ensemble(images):
    names = ("retina_gate", "retina", "faster_gate")
    members = [Predictor.load(checkpoint_of(name)) for name in names]
    assert [member.has_gate for member in members] == [True, False, True]
    ensemble = Ensemble(members, weights=[1, 5, 3])
    assert ensemble.has_gate
    first, _, third = (member.predict(images[1]).p_abnormal for member in members)
    (found,) = ensemble.predict_radiographs([read_radiograph(images[1])], Thresholds())
    assert found.p_abnormal == pytest.approx((first + 3 * third) / 4)


def test_an_ensemble_without_a_gate_goes_by_its_highest_score(images):
    ensemble = Ensemble([Predictor.load(checkpoint_of("retina"))] * 2)
    (found,) = ensemble.predict_radiographs([read_radiograph(images[0])], Thresholds())
    assert not ensemble.has_gate
    assert found.p_abnormal == found.scores[0]


def test_means_by_hand():
    assert mean_p_abnormal([0.2, 0.6]) == pytest.approx(0.4)
    assert mean_p_abnormal([0.2, None, 0.6], [1, 7, 3]) == pytest.approx((0.2 + 3 * 0.6) / 4)
    assert mean_p_abnormal([None, None]) is None


class TestBundle:
    def test_its_description_says_so(self):
        path = bundle_of("faster_gate", "onnx")
        document = json.loads((path / MODEL_FILE).read_text())
        assert document["detector"]["gate"] == {"score_mode": "cut", "cut": 0.8, "exponent": 1.0}
        assert Bundle.open(path).spec.gate == GateRule.of("cut", 0.8)
        (phantoms,) = document["parity"]["sets"]
        assert 0 < phantoms["largest_p_abnormal_difference"] < EXACT.score
        card = (path / "MODEL_CARD.md").read_text()
        assert "p_abnormal is the sigmoid of abnormal: below 0.8 there are no findings." in card
        assert "| mAP | p_abnormal |" in card

    def test_without_a_gate_it_says_nothing(self):
        path = bundle_of("faster", "onnx")
        document = json.loads((path / MODEL_FILE).read_text())
        assert "gate" not in document["detector"]
        assert document["parity"]["sets"][0]["largest_p_abnormal_difference"] is None
        assert "abnormal" not in (path / "MODEL_CARD.md").read_text()

    @pytest.mark.parametrize("kind", ["faster_gate", "faster"])
    def test_one_more_output_of_the_network(self, kind):
        import onnxruntime

        session = onnxruntime.InferenceSession(str(bundle_of(kind, "onnx") / "maps.onnx"))
        names = [output.name for output in session.get_outputs()]
        assert ("abnormal" in names) == (kind == "faster_gate")

    def test_a_rule_that_is_none(self, tmp_path):
        import shutil

        path = tmp_path / "bundle"
        shutil.copytree(bundle_of("faster_gate", "onnx"), path)
        document = json.loads((path / MODEL_FILE).read_text())
        document["detector"]["gate"]["score_mode"] = "add"
        (path / MODEL_FILE).write_text(json.dumps(document))
        with pytest.raises(CheckpointError, match="is not the description of an exported model"):
            Bundle.open(path)

    def test_a_gate_that_differs_from_torch_is_not_written(self, tmp_path, monkeypatch):
        from cxr_mmdet.inference.backends.onnx import OnnxBackend

        usual = OnnxBackend.maps

        def off(self, batch):
            *maps, abnormal = usual(self, batch)
            return (*maps, abnormal + np.float32(0.1))

        monkeypatch.setattr(OnnxBackend, "maps", off)
        with pytest.raises(CheckpointError, match=r"p_abnormal differs by 0\.0\d+ \(limit 0\.001\)"):
            export_model(str(checkpoint_of("faster_gate")), tmp_path / "out", ExportOptions(format=ExportFormat.ONNX))


def nothing_found(p_abnormal: float) -> Findings:
    return Findings.of(Detections([], [], [], ("ILD",), p_abnormal), size_hw=(8, 8), model_id="m")


def test_parity_of_gates_by_hand():
    reference, other = [nothing_found(0.5), nothing_found(0.1)], [nothing_found(0.52), nothing_found(0.07)]
    parity = compare_findings("two", reference, other, score_threshold=0.05, gate=True)
    assert parity.largest_p_abnormal_difference == pytest.approx(0.03)
    assert parity.problems(EXACT) == ["p_abnormal differs by 0.03 (limit 0.001)"]
    assert parity.problems(quantised_limits(0.005)) == []
    assert compare_findings("two", reference, other, score_threshold=0.05).problems(EXACT) == []


def test_a_loss_of_map_is_told_in_the_scale_of_all_maps():
    """It was told in points of a hundred, beside an mAP of 0…1."""
    parity = compare_findings("one", [nothing_found(0.5)], [nothing_found(0.5)], score_threshold=0.05)
    lost = replace(parity, reference_mean_ap=0.2486, mean_ap=0.2366)
    assert lost.problems(EXACT) == ["the mAP falls by 0.0120 (limit 0.001)"]


@pytest.mark.parametrize("kind", ["retina_gate", "retina"])
def test_files_of_a_run(images, tmp_path, kind):
    """p_abnormal stands in findings.json, and with a gate beside detections.json as well; both can be scored by."""
    predictor, out = Predictor.load(checkpoint_of(kind)), tmp_path / "out"
    out.mkdir()
    beside = p_abnormal_path(out / "detections.json")
    beside.write_text('{"left": 0.5}')  # by an earlier run
    predict_many(predictor, find_radiographs([str(images[0].parent)]), out, RunOptions(force=True))
    truth = {"images": [{"id": seed + 1, "file_name": f"p{seed}.png"} for seed in SEEDS]}
    expected = [found.p_abnormal for found in predictor.predict(images)]
    assert read_p_abnormal(out / "findings.json", truth).tolist() == expected
    assert beside.is_file() == (kind == "retina_gate")
    if beside.is_file():
        assert read_p_abnormal(beside, truth).tolist() == expected


def test_fused_files_keep_the_gates_word(tmp_path):
    """Two of three files are of detectors with a gate; then none is."""
    from typer.testing import CliRunner

    from cxr_mmdet.cli.ensemble import app

    truth = {
        "images": [{"id": seed + 1, "file_name": f"p{seed}.png", "height": 9, "width": 9} for seed in (0, 1)],
        "annotations": [],
        "categories": [{"id": 1, "name": "ILD"}],
    }
    (tmp_path / "val.json").write_text(json.dumps(truth))
    files = [tmp_path / f"{name}.json" for name in "abc"]
    for file in files:
        file.write_text(json.dumps([{"image_id": 1, "category_id": 1, "bbox": [1, 1, 5, 5], "score": 0.5}]))
    write_p_abnormal(files[0], {"p0": 0.8, "p1": 0.2})
    write_p_abnormal(files[2], {"p0": 0.4, "p1": 0.2})
    out = tmp_path / "fused.json"
    options = ["--coco", tmp_path / "val.json", "--out", out, "--force", "--weight", 1, "--weight", 5, "--weight", 3]
    result = CliRunner().invoke(app, [str(word) for word in (*files, *options)])
    assert result.exit_code == 0, result.output
    fused = read_p_abnormal(p_abnormal_path(out), truth)
    np.testing.assert_allclose(fused, [(0.8 + 3 * 0.4) / 4, 0.2])
    for file in files:
        write_p_abnormal(file, None)
    CliRunner().invoke(app, [str(word) for word in (*files, *options)])
    assert not p_abnormal_path(out).exists()
