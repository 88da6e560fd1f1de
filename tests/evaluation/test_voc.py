import math

import numpy as np
import pytest
from detection_cases import (
    CATEGORY_IDS,
    IMAGE_IDS,
    detector_like,
    evaluate_voc,
    found,
    make_detections,
    make_ground_truth,
    repeat_images,
    truths,
    with_distinct_scores,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from literal_voc import literal_voc_ap

from cxr_mmdet.evaluation import voc as counting
from cxr_mmdet.evaluation.matching import match_detections
from cxr_mmdet.evaluation.voc import average_precision, mean_defined

HEART, ELSEWHERE = (10, 10, 40, 40), (150, 150, 10, 10)


def assert_literal(truth, detections, iou_threshold):
    scores = evaluate_voc(truth, detections, iou_threshold)
    expected = [literal_voc_ap(truth, detections, category_id, iou_threshold) for category_id in CATEGORY_IDS]
    ours = [math.nan if entry.ap is None else entry.ap for entry in scores.per_class]
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-12)
    mean = math.nan if scores.mean_ap is None else scores.mean_ap
    np.testing.assert_allclose(mean, mean_defined(np.array(expected)), rtol=0, atol=1e-12)


@settings(max_examples=100)
@given(truths, found.map(with_distinct_scores), st.sampled_from([0.25, 0.4, 0.5]))
def test_equals_the_literal_rule_on_random_boxes(truth, detections, iou_threshold):
    assert_literal(truth, detections, iou_threshold)


@pytest.mark.parametrize("seed", range(5))
def test_equals_the_literal_rule_on_a_detector_like_set(seed):
    assert_literal(*detector_like(seed), 0.4)


def test_hand_worked():
    """Three boxes; by score hit, miss, hit, miss, hit. The envelope: 1, 2/3, 3/5."""
    truth = make_ground_truth([(4, 7, HEART), (1, 7, HEART), (30, 7, HEART)])
    rows = [
        (4, 7, HEART, 0.9),
        (4, 7, ELSEWHERE, 0.8),
        (1, 7, HEART, 0.7),
        (12, 7, HEART, 0.6),
        (30, 7, HEART, 0.5),
    ]
    scores = evaluate_voc(truth, make_detections(rows))
    assert scores.per_class[0].ap == pytest.approx(1 / 3 * 1 + 1 / 3 * 2 / 3 + 1 / 3 * 3 / 5, abs=1e-15)
    assert scores.mean_ap == scores.per_class[0].ap
    assert [entry.ap for entry in scores.per_class[1:]] == [None, None]
    assert (scores.per_class[0].ground_truth_boxes, scores.per_class[0].detections) == (3, 5)


def test_the_envelope_lifts_an_early_miss():
    """Miss, hit, hit of two boxes: precision 0, 1/2, 2/3, and 2/3 is reached at every recall."""
    truth = make_ground_truth([(4, 7, HEART), (1, 7, HEART)])
    rows = [(12, 7, HEART, 0.9), (4, 7, HEART, 0.8), (1, 7, HEART, 0.7)]
    assert evaluate_voc(truth, make_detections(rows)).mean_ap == pytest.approx(2 / 3)


def test_no_cap_on_detections_and_extra_low_scores_cost_nothing():
    truth = make_ground_truth([(4, 7, HEART)])
    alarms = [(12, 7, ELSEWHERE, 0.9)] * 150
    late = evaluate_voc(truth, make_detections([*alarms, (4, 7, HEART, 0.1)]))
    assert late.mean_ap == pytest.approx(1 / 151)
    first = evaluate_voc(truth, make_detections([(4, 7, HEART, 1.0), *alarms]))
    assert first.mean_ap == 1.0


def test_perfect_none_and_undefined():
    truth = make_ground_truth([(4, 7, HEART), (4, 2, ELSEWHERE)])
    assert evaluate_voc(truth, make_detections([(4, 7, HEART, 0.3), (4, 2, ELSEWHERE, 0.1)])).mean_ap == 1.0
    assert evaluate_voc(truth, []).mean_ap == 0.0
    assert evaluate_voc(make_ground_truth([]), make_detections([(4, 7, HEART, 0.3)])).mean_ap is None


def test_equal_scores_are_one_operating_point():
    """A hit and a miss of one score: precision is 1/2 there, whichever is listed first."""
    truth = make_ground_truth([(4, 7, HEART)])
    rows = [(4, 7, HEART, 0.5), (12, 7, HEART, 0.5)]
    assert evaluate_voc(truth, make_detections(rows)).mean_ap == 0.5
    assert evaluate_voc(truth, make_detections(rows[::-1])).mean_ap == 0.5


@settings(max_examples=30)
@given(truths, found, st.randoms(use_true_random=False))
def test_the_order_of_the_files_does_not_matter(truth, detections, random):
    shuffled = truth | {"images": random.sample(truth["images"], len(IMAGE_IDS))}
    other = evaluate_voc(shuffled, random.sample(detections, len(detections)))
    for ours, theirs in zip(evaluate_voc(truth, detections).per_class, other.per_class, strict=True):
        assert ours.ap == pytest.approx(theirs.ap, abs=1e-12)


@settings(max_examples=30)
@given(truths, found, st.lists(st.lists(st.integers(0, 3), min_size=4, max_size=4), min_size=1, max_size=3))
def test_weights_are_as_good_as_copies_of_the_images(truth, detections, weights):
    matches = match_detections(truth, detections)
    for place, entry in enumerate(matches):
        weighted = average_precision(entry, np.array(weights, dtype=np.int32))
        assert weighted.shape == (len(weights),)
        for row, value in zip(weights, weighted.tolist(), strict=True):
            copied = match_detections(*repeat_images(truth, detections, row))[place]
            expected = average_precision(copied)
            assert value == pytest.approx(math.nan if expected is None else expected, abs=1e-12, nan_ok=True)


def test_one_row_of_weights_and_ones():
    matches = match_detections(*detector_like(1))[0]
    (weighted,) = average_precision(matches, np.ones(40))
    assert weighted == average_precision(matches)
    assert 0.1 < weighted < 0.99


def test_sums_do_not_depend_on_how_many_are_taken_at_once(monkeypatch):
    matches = match_detections(*detector_like(2))[1]
    weights = np.random.default_rng(0).integers(0, 4, (7, 40))
    whole = average_precision(matches, weights)
    monkeypatch.setattr(counting, "ELEMENTS_AT_ONCE", 15)
    np.testing.assert_array_equal(average_precision(matches, weights), whole)
