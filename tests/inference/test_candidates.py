"""Thresholds on what a network saw once give what running it again gives, to the last bit."""

from __future__ import annotations

import pytest
from detectors import checkpoint_of, write_image

from cxr_mmdet.dicom.radiograph import read_radiograph
from cxr_mmdet.errors import UsageError
from cxr_mmdet.inference.candidates import FLOOR, find_candidates
from cxr_mmdet.inference.predictor import Predictor, Thresholds


@pytest.mark.parametrize("kind", ["retina", "faster_wide"])
def test_thresholds_act_as_predicting_again(tmp_path, kind):
    predictor = Predictor.load(checkpoint_of(kind))
    radiograph = read_radiograph(write_image(tmp_path / "a.png", 150, 120))
    candidates = find_candidates(predictor, radiograph)
    counts = set()
    for score in (FLOOR, 0.07, 0.08, 0.09, 0.1, 0.25, 0.6, 1.0):
        for nms_iou in (0.0, 0.5, 1.0):
            (expected,) = predictor.predict_radiographs([radiograph], Thresholds(score, nms_iou))
            found = candidates.findings(Thresholds(score, nms_iou))
            assert found.to_json() == expected.to_json()
            counts.add(len(found))
    assert len(counts) > 5, "or the thresholds do nothing"


def test_thresholds_of_single_classes_and_the_models_own(tmp_path):
    predictor = Predictor.load(checkpoint_of("retina"))
    radiograph = read_radiograph(write_image(tmp_path / "a.png"))
    candidates = find_candidates(predictor, radiograph)
    for thresholds in (
        Thresholds(),
        Thresholds(0.4, 0.5, {predictor.class_names[1]: 0.05}),
        Thresholds(None, None, {predictor.class_names[0]: 1.0}),
    ):
        (expected,) = predictor.predict_radiographs([radiograph], thresholds)
        assert candidates.findings(thresholds).to_json() == expected.to_json()


def test_the_network_runs_once(tmp_path, monkeypatch):
    predictor = Predictor.load(checkpoint_of("retina"))
    candidates = find_candidates(predictor, read_radiograph(write_image(tmp_path / "a.png")))
    monkeypatch.setattr(type(predictor.model.backend), "maps", lambda *_: pytest.fail("ran again"))
    assert len(candidates.findings(Thresholds(0.2)))


def test_it_holds_no_image(tmp_path):
    predictor = Predictor.load(checkpoint_of("retina"))
    candidates = find_candidates(predictor, read_radiograph(write_image(tmp_path / "a.png")))
    assert candidates.model_input.batch.size == 0


@pytest.mark.parametrize(
    ("thresholds", "message"),
    [
        (Thresholds(FLOOR / 2), "expected 0.01 or more"),
        (Thresholds(0.5, None, {"Pest": 0.5}), "no class 'Pest'"),
        (Thresholds(0.5, 1.5), "expected a number in 0…1"),
    ],
)
def test_thresholds_that_make_no_sense(tmp_path, thresholds, message):
    predictor = Predictor.load(checkpoint_of("retina"))
    candidates = find_candidates(predictor, read_radiograph(write_image(tmp_path / "a.png")))
    with pytest.raises(UsageError, match=message):
        candidates.findings(thresholds)


def test_one_pixel(tmp_path):
    predictor = Predictor.load(checkpoint_of("retina"))
    radiograph = read_radiograph(write_image(tmp_path / "a.png", 1, 1))
    (expected,) = predictor.predict_radiographs([radiograph], Thresholds(0.05))
    assert find_candidates(predictor, radiograph).findings(Thresholds(0.05)).to_json() == expected.to_json()
