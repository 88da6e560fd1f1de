"""Several looks at a radiograph, and several models at it."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from detectors import checkpoint_of, make_image, write_image

from cxr_mmdet.dicom.radiograph import read_radiograph
from cxr_mmdet.inference.fusion import Ensemble
from cxr_mmdet.inference.predictor import Augmentation, AugmentationView, Predictor, Thresholds, make_views
from cxr_mmdet.structures import boxes
from cxr_mmdet.structures.enums import DetectionFusion


@pytest.fixture(scope="module")
def predictor():
    return Predictor.load(checkpoint_of("retina"))


def test_a_mirrored_look_is_a_look_at_the_mirrored_image(tmp_path, predictor):
    # Squares whose side needs no padding: else an odd pixel would be on the other side.
    image = make_image(120, 120)
    cv2.imwrite(str(tmp_path / "plain.png"), image)
    cv2.imwrite(str(tmp_path / "mirrored.png"), cv2.flip(image, 1))
    flipped = predictor.predict(tmp_path / "plain.png", augmentation=Augmentation((AugmentationView(flip=True),)))
    mirrored = predictor.predict(tmp_path / "mirrored.png")
    assert len(mirrored) > 5
    np.testing.assert_allclose(flipped.boxes_xyxy, boxes.flip_horizontal(mirrored.boxes_xyxy, 120), atol=1e-4)
    np.testing.assert_array_equal(flipped.scores, mirrored.scores)


def test_one_plain_view_is_a_plain_prediction(tmp_path, predictor):
    path = write_image(tmp_path / "a.png")
    assert predictor.predict(path, augmentation=Augmentation()).to_json() == predictor.predict(path).to_json()


def test_a_look_twice_the_size_sees_a_larger_input(tmp_path, predictor):
    path = write_image(tmp_path / "a.png")
    large = predictor.model.preprocessing.scaled(2)(read_radiograph(path).pixels)
    assert large.batch.shape == (1, 3, 256, 256)
    found = predictor.predict(path, augmentation=Augmentation(make_views((1.0, 2.0), flip=True)))
    assert found.size_hw == (150, 120)
    assert len(found) > 0
    assert found.scores.min() > predictor.model.spec.score_threshold, "also after fusion"


def test_the_same_look_twice_changes_nothing_when_nothing_overlaps(tmp_path, predictor):
    path = write_image(tmp_path / "a.png")
    plain = predictor.predict(path)
    twice = predictor.predict(
        path, augmentation=Augmentation((AugmentationView(), AugmentationView()), iou_threshold=0.999)
    )
    assert len(plain) > 5
    np.testing.assert_allclose(twice.scores, plain.scores, atol=1e-7)
    np.testing.assert_allclose(np.sort(twice.boxes_xyxy, axis=0), np.sort(plain.boxes_xyxy, axis=0), atol=1e-4)


def test_architectures_and_label_orders_together(tmp_path):
    path = write_image(tmp_path / "a.png")
    members = [Predictor.load(checkpoint_of(kind)) for kind in ("retina", "retina_wide", "faster")]
    ensemble = Ensemble(members, method=DetectionFusion.P_SUM, weights=[1, 2, 1])
    assert ensemble.class_names[:5] == members[0].class_names
    assert set(ensemble.class_names) == set(members[1].class_names)
    assert len(ensemble.class_names) == 14
    (found,) = ensemble.predict_radiographs([read_radiograph(path)], Thresholds())
    assert found.model_id == ensemble.model_id
    assert ensemble.model_id.startswith("p_sum@0.5:1,2,1(")
    own = {name for member in members for name in np.array(member.class_names)[member.predict(path).labels]}
    assert {found.class_names[label] for label in found.labels} <= own
    assert 0.05 < found.scores.min() < found.scores.max()
    (strict,) = ensemble.predict_radiographs([read_radiograph(path)], Thresholds(score=0.3))
    assert len(strict) == (found.scores > 0.3).sum()
    (lenient,) = ensemble.predict_radiographs([read_radiograph(path)], Thresholds(score=0.01))
    assert len(lenient) > len(found)
