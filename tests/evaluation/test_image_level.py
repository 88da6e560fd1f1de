import numpy as np
import pytest
from detection_cases import make_detections, make_ground_truth
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import trapezoid
from scipy.stats import mannwhitneyu

from cxr_mmdet.evaluation.image_level import ImageScores, no_finding_matches, roc_auc, roc_curve, score_images
from cxr_mmdet.evaluation.matching import DetectionTable, TruthTable
from cxr_mmdet.evaluation.voc import average_precision

HEART = (10, 10, 40, 40)
images = st.lists(st.tuples(st.sampled_from([0.0, 0.1, 0.5, 0.9]), st.booleans()), min_size=1, max_size=30).map(
    lambda rows: ImageScores(np.array([row[0] for row in rows]), np.array([row[1] for row in rows]))
)


@settings(max_examples=100)
@given(images)
def test_auc_is_the_mann_whitney_statistic(scores):
    auc = roc_auc(scores)
    positives, negatives = scores.p_abnormal[scores.abnormal], scores.p_abnormal[~scores.abnormal]
    if not len(positives) or not len(negatives):
        assert np.isnan(auc[0])
        return
    assert auc[0] == pytest.approx(mannwhitneyu(positives, negatives).statistic / len(positives) / len(negatives))
    assert auc[0] == pytest.approx(trapezoid(*reversed(roc_curve(scores))))


@settings(max_examples=50)
@given(images, st.randoms(use_true_random=False))
def test_weights_are_as_good_as_copies(scores, random):
    weights = np.array([[random.randint(0, 3) for _ in scores.abnormal] for _ in range(2)])
    copies = [ImageScores(np.repeat(scores.p_abnormal, row), np.repeat(scores.abnormal, row)) for row in weights]
    expected = [roc_auc(copy)[0] for copy in copies]
    np.testing.assert_allclose(roc_auc(scores, weights), expected, rtol=0, atol=1e-12)


def test_the_highest_score_speaks_for_an_image_unless_a_classifier_does():
    truth = make_ground_truth([(1, 7, HEART), (12, 2, HEART)])  # images 4, 1, 30, 12
    detections = make_detections([(1, 7, HEART, 0.2), (1, 2, HEART, 0.7), (30, 3, HEART, 0.4)])
    tables = TruthTable.of(truth), DetectionTable.of(truth, detections)
    scores = score_images(*tables)
    assert scores.p_abnormal.tolist() == [0.0, 0.7, 0.4, 0.0]
    assert scores.abnormal.tolist() == [False, True, False, True]
    given_p = np.array([0.1, 0.2, 0.3, 0.4])
    assert score_images(*tables, given_p).p_abnormal is given_p


def test_no_finding_is_a_class_with_one_box_an_image():
    """Scores 0.9 (normal), 0.6 (abnormal), 0.3 (normal): precision 1 at the first, 2/3 at the second of two."""
    scores = ImageScores(np.array([0.1, 0.4, 0.7]), np.array([False, True, False]))
    matches = no_finding_matches(scores)
    assert matches.scores.tolist() == pytest.approx([0.9, 0.6, 0.3])
    assert matches.hits.tolist() == [True, False, True]
    assert matches.positives.tolist() == [1, 0, 1]
    assert average_precision(matches) == pytest.approx(1 / 2 * 1 + 1 / 2 * 2 / 3)


def test_no_image_at_all():
    scores = ImageScores(np.zeros(0), np.zeros(0, bool))
    assert np.isnan(roc_auc(scores)[0])
    assert len(roc_curve(scores)[0]) == 0


def test_an_image_with_regions_alone_is_neither_normal_nor_abnormal():
    box = (10, 10, 40, 40)
    truth = make_ground_truth([(4, 7, box), (1, 7, box, 1)])
    scores = score_images(TruthTable.of(truth), DetectionTable.of(truth, []), np.array([0.9, 0.95, 0.1, 0.2]))
    without = make_ground_truth([(4, 7, box)], image_ids=(4, 30, 12))
    expected = score_images(TruthTable.of(without), DetectionTable.of(without, []), np.array([0.9, 0.1, 0.2]))
    assert roc_auc(scores)[0] == roc_auc(expected)[0] == 1
    ours, theirs = no_finding_matches(scores), no_finding_matches(expected)
    assert ours.scores.tolist() == theirs.scores.tolist()
    assert (ours.boxes, ours.hits.tolist()) == (theirs.boxes, theirs.hits.tolist())


def test_an_image_that_the_file_does_not_call_normal_is_neither():
    """Of RSNA's "Not Normal", every class of the set was looked for, but others may be there."""
    truth = make_ground_truth([(4, 7, (10, 10, 40, 40))])
    truth["images"][-1]["normal"] = False
    images = score_images(TruthTable.of(truth), DetectionTable.of(truth, []))
    assert images.known.tolist() == [True] * (len(truth["images"]) - 1) + [False]
