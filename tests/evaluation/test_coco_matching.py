import numpy as np
import pytest
from detection_cases import detector_like, found, make_detections, make_ground_truth, repeat_images, truths
from hypothesis import given, settings
from hypothesis import strategies as st

from cxr_mmdet.evaluation.coco import coco_average_precision, evaluate_coco, match_coco
from cxr_mmdet.evaluation.matching import DetectionTable, TruthTable, overlapping_pairs


def match(ground_truth, detections):
    truth, table = TruthTable.of(ground_truth), DetectionTable.of(ground_truth, detections)
    return match_coco(truth, table, overlapping_pairs(truth, table))


def assert_equals_the_library(ground_truth, detections, multiplicities=None):
    """hotcoco, which test_coco holds to pycocotools; with multiplicities, on that many copies of each image."""
    images = len(ground_truth["images"])
    copied = repeat_images(ground_truth, detections, multiplicities) if multiplicities else (ground_truth, detections)
    weights = np.array([multiplicities]) if multiplicities else np.ones((1, images))
    for ours, theirs in zip(match(ground_truth, detections), evaluate_coco(*copied).per_class, strict=True):
        ap = coco_average_precision(ours, weights)
        assert ap.shape == (10, 1)
        expected = [np.nan if value is None else value for value in (theirs.ap, theirs.ap_50, theirs.ap_75)]
        np.testing.assert_allclose([ap.mean(), ap[0, 0], ap[5, 0]], expected, rtol=0, atol=1e-12)


@settings(max_examples=150)
@given(truths, found)
def test_equals_the_library_on_random_boxes_with_ties_and_crowds(truth, detections):
    assert_equals_the_library(truth, detections)


@pytest.mark.parametrize("seed", range(4))
def test_equals_the_library_on_a_detector_like_set(seed):
    assert_equals_the_library(*detector_like(seed))


@pytest.mark.parametrize("seed", range(4))
def test_weights_are_as_good_as_copies_of_the_images(seed):
    truth, detections = detector_like(seed, images=8)
    random = np.random.default_rng(seed)
    assert_equals_the_library(truth, detections, [int(n) for n in random.integers(0, 3, 8)])


@settings(max_examples=40)
@given(truths, st.integers(0, 2**32 - 1))
def test_more_than_the_cap_of_one_class_on_one_image(truth, seed):
    random = np.random.default_rng(seed)
    boxes = np.hstack([random.integers(0, 6, (130, 2)) * 8.0, random.choice([8.0, 16.0, 40.0], (130, 2))])
    rows = [(4, 7, box, score) for box, score in zip(boxes.tolist(), random.random(130).tolist(), strict=True)]
    assert_equals_the_library(truth, make_detections(rows))


def test_a_detection_takes_the_best_box_that_is_left():
    """Where VOC would call the second a duplicate, COCO lets it hit the other box."""
    ground_truth = make_ground_truth([(4, 7, (0, 0, 40, 40)), (4, 7, (10, 0, 40, 40))])
    detections = make_detections([(4, 7, (0, 0, 40, 40), 0.9), (4, 7, (2, 0, 40, 40), 0.8)])
    hits = match(ground_truth, detections)[0].hits
    assert hits[:, 0].all()
    assert hits[:, 1].tolist() == [True] * 4 + [False] * 6  # IoU 32 · 40 / (48 · 40) = 2 / 3
