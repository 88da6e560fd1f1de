import numpy as np
import pytest
from detection_cases import make_detections, make_ground_truth

from cxr_mmdet.evaluation.error_analysis import calibrate
from cxr_mmdet.evaluation.matching import match_detections

HEART, ELSEWHERE = (0, 0, 40, 40), (150, 150, 20, 20)


def calibration(rows, boxes=((4, 7, HEART), (1, 7, HEART))):
    return calibrate(match_detections(make_ground_truth(boxes), make_detections(rows))[0])


def test_by_hand():
    result = calibration([(4, 7, HEART, 0.95), (1, 7, HEART, 0.97), (4, 7, ELSEWHERE, 0.91), (30, 7, HEART, 0.12)])
    assert result.counts.tolist() == [0, 1, 0, 0, 0, 0, 0, 0, 0, 3]
    assert result.precision[9] == pytest.approx(2 / 3)
    assert result.scores[9] == pytest.approx((0.95 + 0.97 + 0.91) / 3)
    distance = abs((0.95 + 0.97 + 0.91) / 3 - 2 / 3)
    assert result.ece == pytest.approx((3 * distance + 1 * 0.12) / 4)
    assert result.to_json()["bins"][0] == {"count": 0, "score": None, "precision": None}


def test_a_border_belongs_to_the_upper_bin_and_one_to_the_last():
    counts = calibration([(4, 7, HEART, 0.0), (4, 7, HEART, 0.5), (4, 7, HEART, 1.0)]).counts
    assert np.flatnonzero(counts).tolist() == [0, 5, 9]


def test_a_duplicate_is_wrong():
    assert calibration([(4, 7, HEART, 0.95), (4, 7, HEART, 0.95)]).precision[9] == 0.5


def test_scores_that_mean_what_they_say_have_no_error():
    random = np.random.default_rng(0)
    scores = random.uniform(0, 1, 4000)
    right = random.uniform(0, 1, 4000) < scores
    images = tuple(range(1, 4001))
    truth = make_ground_truth([(i, 7, HEART) for i in images], image_ids=images)
    rows = [(i, 7, HEART if ok else ELSEWHERE, s) for i, s, ok in zip(images, scores.tolist(), right, strict=True)]
    assert calibrate(match_detections(truth, make_detections(rows))[0]).ece < 0.03


def test_nothing_detected():
    result = calibration([])
    assert result.ece is None
    assert result.counts.sum() == 0
