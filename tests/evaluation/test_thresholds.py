import pytest
from detection_cases import detector_like, make_detections, make_ground_truth

from cxr_mmdet.evaluation.froc import Threshold, threshold_for_false_positives, threshold_for_sensitivity
from cxr_mmdet.evaluation.matching import match_detections

HEART = (0, 0, 40, 40)


@pytest.fixture
def matches():
    """Four images, two boxes; by score hit, false, hit, false."""
    truth = make_ground_truth([(4, 7, HEART), (1, 7, HEART)])
    rows = [(4, 7, HEART, 0.9), (12, 7, HEART, 0.8), (1, 7, HEART, 0.6), (30, 7, HEART, 0.3)]
    return match_detections(truth, make_detections(rows))[0]


@pytest.mark.parametrize(
    ("sensitivity", "score", "reached", "false"), [(0, 0.9, 0.5, 0), (0.5, 0.9, 0.5, 0), (0.51, 0.6, 1, 0.25)]
)
def test_for_a_sensitivity(matches, sensitivity, score, reached, false):
    assert threshold_for_sensitivity(matches, sensitivity) == Threshold(
        "Cardiomegaly", score, f"{score:.3f}", reached, false
    )


@pytest.mark.parametrize(("rate", "score"), [(0, 0.9), (0.24, 0.9), (0.25, 0.6), (8, 0.6)])
def test_for_false_positives(matches, rate, score):
    assert threshold_for_false_positives(matches, rate).score == score


def test_what_cannot_be_had_is_none():
    truth = make_ground_truth([(4, 7, HEART), (1, 7, HEART)])
    half = match_detections(truth, make_detections([(12, 7, HEART, 0.9), (4, 7, HEART, 0.5)]))
    assert threshold_for_sensitivity(half[0], 0.9) == Threshold("Cardiomegaly", None, None, None, None)
    assert threshold_for_false_positives(half[0], 0.1).score is None
    assert threshold_for_sensitivity(half[1], 0.1).score is None  # a class without boxes


@pytest.mark.parametrize("seed", range(3))
def test_cutting_there_keeps_the_promise(seed):
    truth, detections = detector_like(seed)
    for place, entry in enumerate(match_detections(truth, detections)):
        for cut in (threshold_for_sensitivity(entry, 0.6), threshold_for_false_positives(entry, 0.5)):
            for score in (cut.score, float(cut.printed)):
                kept = [d for d in detections if d["score"] >= score]
                after = match_detections(truth, kept)[place]
                assert after.hits.sum() / after.boxes == pytest.approx(cut.sensitivity)
                assert (~after.hits & ~after.duplicates).sum() / 40 == pytest.approx(cut.false_positives)
        assert threshold_for_sensitivity(entry, 0.6).sensitivity >= 0.6
        assert threshold_for_false_positives(entry, 0.5).false_positives <= 0.5
