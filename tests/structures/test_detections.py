"""Detections and findings as data: NMS, thresholds, sorting, clipping, JSON, COCO and drawing."""

from __future__ import annotations

import json

import numpy as np
import pytest

from cxr_mmdet.structures.detections import Detections, Finding, Findings

NAMES = ("ILD", "Nodule/Mass")


def make(boxes, labels, scores, size_hw=(100, 80)):
    detections = Detections(boxes, labels, scores, NAMES)
    return Findings.of(detections, size_hw=size_hw, model_id="m", warnings=("odd",))


def test_sorted_cut_and_without_boxes_that_are_gone():
    found = make(
        [[-5, 10, 20, 30], [90, 0, 95, 10], [10, 10, 10, 40], [5, 5, 200, 200]], [0, 0, 1, 1], [0.2, 0.9, 0.8, 0.7]
    )
    assert found.scores.tolist() == [0.7, 0.2]
    assert found.boxes_xyxy.tolist() == [[5, 5, 80, 100], [0, 10, 20, 30]]
    assert found.labels.tolist() == [1, 0]
    assert found.p_abnormal == 0.7
    assert len(found) == 2


def test_nothing():
    found = make([], [], [])
    assert found.p_abnormal == 0
    assert found.boxes_xyxy.shape == (0, 4)
    assert found.to_coco(1, [1, 2]) == []
    assert Findings.from_json(found.to_json(), NAMES).to_json() == found.to_json()


def test_json_and_back():
    found = make([[1.25, 2, 30, 40], [0, 0, 80, 100]], [1, 0], [0.1234567890123, 0.5])
    value = json.loads(json.dumps(found.to_json()))
    assert value["findings"][0] == {"class": "ILD", "score": 0.5, "box_xyxy": [0, 0, 80, 100]}
    assert Findings.from_json(value, NAMES).to_json() == found.to_json()
    assert Findings.from_json(value, NAMES[::-1]).labels.tolist() == [1, 0]


def test_coco_in_pixels_of_the_prepared_image():
    found = make([[10, 20, 30, 60]], [1], [0.5])
    assert found.to_coco(7, [11, 12]) == [{"image_id": 7, "category_id": 12, "bbox": [10, 20, 20, 40], "score": 0.5}]
    (half,) = found.to_coco(7, [11, 12], (50, 40))
    assert half["bbox"] == [5, 10, 10, 20]


def test_thresholds_leave_the_probability_of_disease_alone():
    found = make([[0, 0, 9, 9], [0, 0, 9, 9], [0, 0, 9, 9]], [0, 1, 1], [0.5, 0.4, 0.3])
    assert found.filter(0.4).scores.tolist() == [0.5, 0.4], "a score reaches a threshold equal to it"
    assert found.filter({"ILD": 0.9}).scores.tolist() == [0.4, 0.3]
    assert found.filter(1.0).p_abnormal == 0.5


def test_drawn_on_a_smaller_copy():
    found = make([[20, 20, 60, 80]], [0], [0.5])
    image = found.draw(np.full((50, 40), 90, np.uint8))
    assert image.shape == (50, 40, 3)
    colored = image.max(axis=2) != image.min(axis=2)
    assert colored[30, 9:12].any(), "the left side of the box, at half its place in the source"
    assert colored[38:41, 20].any(), "its lower side"
    assert not colored[44:].any()


def test_the_best():
    found = make([[0, 0, 10, 10]] * 3, [0, 1, 0], [0.3, 0.5, 0.4])
    assert found.best(2).scores.tolist() == [0.5, 0.4]
    assert found.best(2).labels.tolist() == [1, 0]
    assert len(found.best(9)) == 3
    assert (len(found.best(0)), found.best(0).p_abnormal, found.best(0).boxes_xyxy.shape) == (0, 0.5, (0, 4))


def test_iteration_yields_a_row_per_finding():
    (finding,) = make([[1.25, 2, 30, 40]], [1], [0.5])
    assert finding == Finding(1, "Nodule/Mass", 0.5, (1.25, 2, 30, 40))
    assert finding.key == "1:1.25,2.00,30.00,40.00"


def test_the_best_of_unsorted_detections_are_sorted():
    detections = Detections(np.zeros((3, 4)), [0, 1, 2], [0.2, 0.9, 0.5], p_abnormal=0.1)
    assert detections.best(2).scores.tolist() == [0.9, 0.5]
    assert detections.best(2).p_abnormal == 0.1


def test_nms_is_per_class_and_keeps_single_precision():
    same = np.array([[0, 0, 10, 10]] * 3, np.float32)
    detections = Detections(same, [0, 0, 1], np.array([0.4, 0.5, 0.3], np.float32))
    kept = detections.nms(0.5)
    assert kept.labels.tolist() == [0, 1]
    assert kept.scores.dtype == kept.boxes_xyxy.dtype == np.float32
    assert len(detections.nms(0.5, max_detections=1)) == 1
    assert len(Detections([], [], []).nms(0.5)) == 0


def test_lengths_that_differ_are_refused():
    with pytest.raises(ValueError, match="2 boxes_xyxy, 1 labels, 2 scores"):
        Detections([[0, 0, 1, 1]] * 2, [0], [0.5, 0.4])


def test_a_drawing_without_a_box_says_so():
    pixels, found = np.full((100, 80), 90, np.uint8), make([[0, 0, 9, 9], [50, 50, 60, 60]], [0, 1], [0.2, 0.1])
    empty = found.draw(pixels)
    assert (empty.max(axis=2) == empty.min(axis=2)).all(), "no coloured line"
    assert (empty[:, :, 0] == 255).any(), "the caption"
    assert found.caption(0.3) == "no finding above 0.30"
    assert not np.array_equal(empty, found.draw(pixels, min_score=0.35)), "the threshold is written"
    assert np.array_equal(found[:1].draw(pixels, min_score=0.15), found.draw(pixels, min_score=0.15))
