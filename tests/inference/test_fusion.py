"""Fusion against ensemble-boxes, and what it does not know: summed scores, other label orders, classes of some only."""

from __future__ import annotations

import numpy as np
import pytest
from ensemble_boxes import weighted_boxes_fusion
from hypothesis import given, settings
from hypothesis import strategies as st

from cxr_mmdet.errors import UsageError
from cxr_mmdet.inference.fusion import Ensemble, check_weights, fuse, fuse_findings
from cxr_mmdet.inference.predictor import make_views
from cxr_mmdet.structures.detections import Detections, Findings
from cxr_mmdet.structures.enums import DetectionFusion

SIDE = 100


def random_detections(count: int, rng) -> Detections:
    corners = rng.uniform(0, 60, (count, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(10, 40, (count, 2))], axis=1)
    return Detections(boxes, rng.integers(0, 3, count), rng.uniform(0.05, 1, count))


def sorted_rows(boxes, labels, scores):
    rows = np.column_stack([labels, scores, boxes])
    return rows[np.lexsort(rows.T[::-1])]


@settings(max_examples=60)
@given(
    counts=st.lists(st.integers(0, 12), min_size=1, max_size=4),
    seed=st.integers(0, 999),
    iou=st.sampled_from([0.3, 0.5, 0.7]),
    weighted=st.booleans(),
)
def test_wbf_is_that_of_ensemble_boxes(counts, seed, iou, weighted):
    rng = np.random.default_rng(seed)
    models = [random_detections(count, rng) for count in counts]
    weights = rng.uniform(0.5, 2, len(models)).tolist() if weighted else None
    fused = fuse(models, iou_threshold=iou, weights=weights)
    boxes, scores, labels = weighted_boxes_fusion(
        [(model.boxes_xyxy / SIDE).tolist() for model in models],
        [model.scores.tolist() for model in models],
        [model.labels.tolist() for model in models],
        weights=weights,
        iou_thr=iou,
    )
    assert len(fused.scores) == len(scores)
    assert (np.diff(fused.scores) <= 0).all()
    got = sorted_rows(fused.boxes_xyxy, fused.labels, fused.scores.round(4))
    expected = sorted_rows(boxes * SIDE, labels, np.minimum(scores, 1).round(4))
    np.testing.assert_allclose(got, expected, atol=2e-3)  # ensemble-boxes counts in single precision


def box(*sides, label=0, score=0.5):
    return Detections(np.array([sides], dtype=float), np.array([label]), np.array([score]))


def test_summed_scores_by_hand():
    """Two boxes of one model and one of the other mean one finding: 0.6 + 0.2 + 0.4, over two models."""
    first = Detections(np.array([[0, 0, 10, 10], [0, 0, 10, 9]], float), np.zeros(2, int), np.array([0.6, 0.2]))
    second = box(0, 0, 10, 8, score=0.4)
    summed = fuse([first, second], method=DetectionFusion.P_SUM)
    np.testing.assert_allclose(summed.scores, [(0.6 + 0.2 + 0.4) / 2])
    mean_bottom = (0.6 * 10 + 0.2 * 9 + 0.4 * 8) / (0.6 + 0.2 + 0.4)
    np.testing.assert_allclose(summed.boxes_xyxy, [[0, 0, 10, mean_bottom]])
    averaged = fuse([first, second], method=DetectionFusion.WBF)
    np.testing.assert_allclose(averaged.scores, [(0.6 + 0.2 + 0.4) / 3 * 2 / 2])


def test_summed_scores_stay_probabilities():
    twice = Detections(np.array([[0, 0, 10, 10], [0, 0, 10, 9]], float), np.zeros(2, int), np.array([0.9, 0.9]))
    np.testing.assert_allclose(fuse([twice], method=DetectionFusion.P_SUM).scores, [1])


@pytest.mark.parametrize("method", DetectionFusion)
def test_a_finding_that_a_heavy_model_names_twice_stays_a_probability(method):
    """ensemble-boxes gives 1 * 2 * 2 / 3 = 1.33 here, which our own evaluation refuses."""
    twice = Detections(np.array([[0, 0, 10, 10]] * 2, float), np.zeros(2, int), np.ones(2))
    other = box(30, 30, 40, 40, score=0.5)
    assert fuse([twice, other], method=method, weights=[2, 1]).scores.tolist() == [1, 0.5 / 3]


def test_summed_scores_by_weight():
    fused = fuse(
        [box(0, 0, 10, 10, score=0.6), box(0, 0, 10, 10, score=0.3)], method=DetectionFusion.P_SUM, weights=[2, 1]
    )
    np.testing.assert_allclose(fused.scores, [(2 * 0.6 + 1 * 0.3) / 3])


def test_nothing_to_fuse():
    fused = fuse([Detections([], [], []), Detections([], [], [])])
    assert fused.boxes_xyxy.shape == (0, 4)


def test_a_model_that_finds_nothing_counts():
    alone = fuse([box(0, 0, 10, 10, score=0.8), Detections([], [], [])])
    np.testing.assert_allclose(alone.scores, [0.8 / 2])


def findings(names, rows, model_id="m"):
    boxes, labels, scores = [row[0] for row in rows], [names.index(row[1]) for row in rows], [row[2] for row in rows]
    return Findings.of(Detections(boxes, labels, scores, names), size_hw=(SIDE, SIDE), model_id=model_id)


def test_label_orders_do_not_matter():
    same = [0, 0, 10, 10]
    one = findings(("ILD", "Nodule/Mass"), [(same, "Nodule/Mass", 0.8)])
    other = findings(("Nodule/Mass", "ILD"), [(same, "Nodule/Mass", 0.6), (same, "ILD", 0.2)])
    fused = fuse_findings([one, other], ("ILD", "Nodule/Mass"), method=DetectionFusion.WBF, iou_threshold=0.5)
    by_label = dict(zip(fused.labels.tolist(), fused.scores.tolist(), strict=True))
    assert by_label == pytest.approx({1: (0.8 + 0.6) / 2, 0: 0.2 / 2})


def test_a_class_that_one_model_does_not_know_is_not_lowered_by_it():
    knows = findings(("ILD", "Cardiomegaly"), [([0, 0, 9, 9], "ILD", 0.8), ([20, 20, 60, 60], "Cardiomegaly", 0.6)])
    does_not = findings(("Cardiomegaly",), [([20, 20, 60, 60], "Cardiomegaly", 0.4)])
    fused = fuse_findings([knows, does_not], ("ILD", "Cardiomegaly"), method=DetectionFusion.WBF, iou_threshold=0.5)
    by_label = dict(zip(fused.labels.tolist(), fused.scores.tolist(), strict=True))
    assert by_label == pytest.approx({0: 0.8, 1: 0.5})


def test_weights_fit_their_models():
    check_weights(None, 3)
    check_weights([1, 0.5], 2)
    for weights in ([1], [1, 0], [1, -1]):
        with pytest.raises(UsageError, match=r"weights? for 2 models"):
            check_weights(weights, 2)
    with pytest.raises(UsageError, match="at least one"):
        Ensemble([])


def test_views():
    assert [(view.scale, view.flip) for view in make_views((1.0, 1.5), flip=True)] == [
        (1.0, False),
        (1.5, False),
        (1.0, True),
        (1.5, True),
    ]
