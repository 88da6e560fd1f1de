import numpy as np
import pytest
from detection_cases import detector_like, found, make_detections, make_ground_truth, truths
from hypothesis import given, settings

from cxr_mmdet.evaluation.froc import RATES, froc_curve, pool, sensitivities
from cxr_mmdet.evaluation.matching import match_detections
from cxr_mmdet.structures.enums import HitCriterion

HEART, ELSEWHERE = (10, 10, 40, 40), (150, 150, 10, 10)


def literal_sensitivity(matches, rate):
    """Cut at every score in turn and look."""
    best = 0.0
    boxes = sum(entry.boxes for entry in matches)
    images = len(matches[0].positives)
    for cut in {score for entry in matches for score in entry.scores.tolist()}:
        hits = sum(int(entry.hits[entry.scores >= cut].sum()) for entry in matches)
        false = sum(int((~entry.hits & ~entry.duplicates)[entry.scores >= cut].sum()) for entry in matches)
        if false / images <= rate:
            best = max(best, hits / boxes)
    return best


@settings(max_examples=100)
@given(truths, found)
def test_equals_cutting_at_every_score(truth, detections):
    matches = match_detections(truth, detections)
    ours = sensitivities(pool(matches))[:, 0]
    if not sum(entry.boxes for entry in matches):
        assert np.isnan(ours).all()
        return
    assert ours.tolist() == pytest.approx([literal_sensitivity(matches, rate) for rate in RATES])
    for entry in matches:
        if entry.boxes:
            expected = [literal_sensitivity([entry], rate) for rate in RATES]
            assert sensitivities(entry)[:, 0].tolist() == pytest.approx(expected)


def test_hand_worked():
    """Four images, two boxes: one false alarm is 1/4 an image, two are 1/2."""
    truth = make_ground_truth([(4, 7, HEART), (1, 2, HEART)])
    rows = [
        (4, 7, HEART, 0.9),
        (12, 7, HEART, 0.8),
        (12, 2, HEART, 0.7),
        (1, 2, HEART, 0.6),
    ]
    matches = match_detections(truth, make_detections(rows))
    assert sensitivities(pool(matches))[:, 0].tolist() == [0.5, 0.5, 1.0, 1.0, 1.0, 1.0, 1.0]
    curve = froc_curve(pool(matches))
    assert curve.scores.tolist() == [0.9, 0.6]
    assert curve.false_positives.tolist() == [0.0, 0.5]
    assert curve.sensitivity.tolist() == [0.5, 1.0]


def test_a_second_detection_of_a_box_is_not_a_false_positive():
    truth = make_ground_truth([(4, 7, HEART), (1, 7, HEART)])
    rows = [(4, 7, HEART, 0.9), *[(4, 7, HEART, 0.8)] * 50, (1, 7, HEART, 0.1)]
    assert sensitivities(match_detections(truth, make_detections(rows))[0])[0, 0] == 1.0


def test_the_hit_criterion_can_be_the_centre():
    truth = make_ground_truth([(4, 7, (0, 0, 100, 100))])
    rows = make_detections([(4, 7, (40, 40, 10, 10), 0.9)])
    assert sensitivities(match_detections(truth, rows)[0])[-1, 0] == 0.0
    assert sensitivities(match_detections(truth, rows, criterion=HitCriterion.CENTRE)[0])[-1, 0] == 1.0


def test_equal_scores_enter_together():
    """A hit and two false alarms of one score on four images: not to be had at 1/4 an image."""
    truth = make_ground_truth([(4, 7, HEART)])
    rows = [(4, 7, HEART, 0.5), (12, 7, HEART, 0.5), (1, 7, HEART, 0.5)]
    assert sensitivities(match_detections(truth, make_detections(rows))[0])[:, 0].tolist() == [0, 0, 1, 1, 1, 1, 1]


def test_nothing_detected_and_nothing_annotated():
    none = match_detections(make_ground_truth([(4, 7, HEART)]), [])
    assert sensitivities(pool(none))[:, 0].tolist() == [0.0] * 7
    assert len(froc_curve(pool(none)).scores) == 0
    nowhere = match_detections(make_ground_truth([]), make_detections([(4, 7, HEART, 0.5)]))
    assert np.isnan(sensitivities(pool(nowhere))).all()
    assert np.isnan(sensitivities(pool(()))).all()


def test_weights_count_images_too():
    """Twice as many normal images halve the false alarms an image."""
    truth, detections = detector_like(0, images=300)
    matches = pool(match_detections(truth, detections))
    normal = matches.positives == 0
    quiet = normal & ~np.isin(np.arange(300), matches.image_index)
    assert quiet.any()
    weights = np.where(quiet, 1 + 300 / quiet.sum(), 1.0)
    doubled = sensitivities(matches, weights)
    np.testing.assert_array_equal(doubled[1:, 0], sensitivities(matches, rates=[2 * rate for rate in RATES[1:]])[:, 0])
