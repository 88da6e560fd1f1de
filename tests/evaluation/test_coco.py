import contextlib
import copy
import io
import json
from functools import partial

import detection_cases
import numpy as np
import pytest
from detection_cases import IMAGE_IDS, NAMES, make_detections
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from cxr_mmdet.errors import DatasetError
from cxr_mmdet.evaluation.coco import CocoScores, evaluate_coco

CATEGORY_IDS = (2, 3, 7)
make_ground_truth = partial(detection_cases.make_ground_truth, category_ids=CATEGORY_IDS)


def pycocotools_stats(ground_truth, detections, caps=(1, 10, 100)):
    """COCO's twelve numbers and the (precision, recall) arrays of the original library."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = copy.deepcopy(ground_truth)
        truth.createIndex()
        if detections:
            found = truth.loadRes(copy.deepcopy(detections))
        else:  # loadRes stumbles over an empty list
            found = COCO()
            found.dataset = {**copy.deepcopy(ground_truth), "annotations": []}
            found.createIndex()
        evaluation = COCOeval(truth, found, "bbox")
        evaluation.params.maxDets = list(caps)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats, evaluation.eval["precision"], evaluation.eval["recall"]


def twelve(scores):
    return [
        scores.mean_ap,
        scores.mean_ap_50,
        scores.mean_ap_75,
        scores.mean_ap_small,
        scores.mean_ap_medium,
        scores.mean_ap_large,
        *scores.mean_ar.values(),
        scores.mean_ar_small,
        scores.mean_ar_medium,
        scores.mean_ar_large,
    ]


def defined_mean(values):
    return -1.0 if not (values > -1).any() else values[values > -1].mean()


def assert_equals_pycocotools(ground_truth, detections):
    scores = evaluate_coco(ground_truth, detections)
    stats, precision, recall = pycocotools_stats(ground_truth, detections)
    ours = [-1.0 if value is None else value for value in twelve(scores)]
    np.testing.assert_allclose(ours, stats, rtol=0, atol=1e-9)
    order = sorted(category["id"] for category in ground_truth["categories"])
    for category, of_class in zip(ground_truth["categories"], scores.per_class, strict=True):
        k = order.index(category["id"])
        expected = [
            defined_mean(precision[:, :, k, 0, 2]),
            defined_mean(precision[0, :, k, 0, 2]),
            defined_mean(precision[5, :, k, 0, 2]),
            defined_mean(recall[:, k, 0, 2]),
        ]
        ours = [
            -1.0 if value is None else value for value in (of_class.ap, of_class.ap_50, of_class.ap_75, of_class.ar_100)
        ]
        np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-9)
        assert of_class.name == category["name"]
    return scores


# A coarse grid makes equal boxes, equal scores and IoUs on a threshold common instead of rare.
grid = st.integers(0, 12).map(lambda step: 8.0 * step)
side = st.sampled_from([1.0, 8.0, 16.0, 24.0, 40.0, 96.0, 100.5])
boxes_xywh = st.tuples(grid, grid, side, side)
rows = st.tuples(st.sampled_from(IMAGE_IDS), st.sampled_from(CATEGORY_IDS), boxes_xywh)
truths = st.lists(st.tuples(rows, st.integers(0, 1)).map(lambda row: (*row[0], row[1])), max_size=25)
found = st.lists(
    st.tuples(rows, st.sampled_from([0.0, 0.1, 0.5, 0.5000001, 0.9, 1.0])).map(lambda row: (*row[0], row[1])),
    max_size=40,
)


@settings(max_examples=150)
@given(truths, found)
def test_equals_pycocotools_on_random_boxes(truth_rows, found_rows):
    assert_equals_pycocotools(make_ground_truth(truth_rows), make_detections(found_rows))


@settings(max_examples=15)
@given(st.integers(0, 2**32 - 1))
def test_equals_pycocotools_on_a_detector_like_set(seed):
    """Noisy copies of the truth among false alarms, more than 100 of one class on one image, real-valued boxes."""
    random = np.random.default_rng(seed)
    corner = random.uniform(0, 100, (30, 2))
    boxes = np.hstack([corner, random.uniform(5, 99, (30, 2))])
    images = random.choice(IMAGE_IDS, 30).tolist()
    categories = random.choice(CATEGORY_IDS, 30).tolist()
    noisy = np.vstack([boxes + random.normal(0, scale, boxes.shape) for scale in (1, 3, 8)])
    noisy[:, 2:] = np.abs(noisy[:, 2:]) + 0.1
    detections = list(zip(images * 3, categories * 3, noisy.tolist(), random.uniform(0, 1, 90).tolist(), strict=True))
    crowded = np.hstack([random.uniform(0, 100, (130, 2)), random.uniform(5, 50, (130, 2))]).tolist()
    detections += [(4, 2, box, float(score)) for box, score in zip(crowded, random.uniform(0, 1, 130), strict=True)]
    truth = list(zip(images, categories, boxes.tolist(), random.integers(0, 2, 30).tolist(), strict=True))
    assert_equals_pycocotools(make_ground_truth(truth), make_detections(detections))


def test_perfect_detections_score_exactly_one_at_every_size():
    truth = [(4, 2, (10, 10, 20, 20)), (1, 3, (0, 0, 50, 50)), (30, 7, (5, 5, 150, 150))]
    scores = evaluate_coco(make_ground_truth(truth), make_detections([(*row, 0.5) for row in truth]))
    assert twelve(scores) == [1.0] * 12
    assert [(c.ap, c.ap_50, c.ap_75, c.ar_100) for c in scores.per_class] == [(1.0,) * 4] * 3


def test_hand_worked_average_precision():
    """Two boxes; detections by score: hit, miss, hit. Precision over recall: 1 up to 1/2, then 2/3 up to 1."""
    ground_truth = make_ground_truth([(4, 2, (0, 0, 40, 40)), (1, 2, (0, 0, 40, 40))])
    detections = make_detections(
        [(4, 2, (0, 0, 40, 40), 0.9), (30, 2, (0, 0, 40, 40), 0.8), (1, 2, (0, 0, 40, 40), 0.7)]
    )
    scores = evaluate_coco(ground_truth, detections)
    points_up_to_half, points_above = 51, 50  # of COCO's 101 recalls 0.00, 0.01 … 1.00
    assert scores.mean_ap == pytest.approx((points_up_to_half * 1 + points_above * 2 / 3) / 101, abs=1e-12)


def test_a_box_at_iou_two_thirds_counts_at_four_of_ten_thresholds():
    scores = evaluate_coco(make_ground_truth([(4, 2, (0, 0, 40, 60))]), make_detections([(4, 2, (0, 0, 40, 40), 0.4)]))
    assert scores.mean_ap == pytest.approx(4 / 10)  # 0.50, 0.55, 0.60, 0.65 ≤ 1600 / 2400
    assert (scores.mean_ap_50, scores.mean_ap_75) == (1.0, 0.0)


def test_no_detections_are_a_legal_zero():
    truth = make_ground_truth([(4, 2, (0, 0, 40, 40)), (1, 3, (0, 0, 150, 150))])
    scores = assert_equals_pycocotools(truth, [])
    assert (scores.mean_ap, scores.mean_ap_50, scores.mean_ar[100]) == (0.0, 0.0, 0.0)
    assert [c.ap for c in scores.per_class] == [0.0, 0.0, None]
    assert scores.mean_ap_small is None
    assert scores.detections == 0


def test_a_class_without_boxes_is_undefined_and_stays_out_of_the_mean():
    truth = [(4, 2, (0, 0, 40, 40))]
    scores = evaluate_coco(
        make_ground_truth(truth), make_detections([(4, 2, (0, 0, 40, 40), 1), (4, 7, (0, 0, 9, 9), 1)])
    )
    assert scores.mean_ap == 1.0
    undefined = scores.per_class[2]
    assert (undefined.ap, undefined.ap_50, undefined.ap_75, undefined.ar_100) == (None, None, None, None)
    assert (undefined.ground_truth_boxes, undefined.detections) == (0, 1)


def test_nothing_annotated_and_no_images_are_undefined_not_an_error():
    for ground_truth in (make_ground_truth([]), {"images": [], "categories": [], "annotations": []}):
        assert twelve(evaluate_coco(ground_truth, [])) == [None] * 12
    scores = assert_equals_pycocotools(make_ground_truth([]), make_detections([(4, 2, (0, 0, 9, 9), 1)]))
    assert scores.mean_ap is None


def test_false_alarms_on_a_normal_study_lower_precision():
    truth = [(4, 2, (0, 0, 40, 40))]
    detections = [(12, 2, (0, 0, 40, 40), 0.9), (4, 2, (0, 0, 40, 40), 0.8)]
    scores = evaluate_coco(make_ground_truth(truth), make_detections(detections))
    assert scores.mean_ap == pytest.approx(1 / 2)
    assert scores.images == len(IMAGE_IDS)


def test_a_detection_without_extent_is_a_false_alarm_not_a_crash():
    truth = make_ground_truth([(4, 2, (0, 0, 40, 40))])
    scores = assert_equals_pycocotools(
        truth, make_detections([(4, 2, (200, 0, 0, 10), 0.9), (4, 2, (0, 0, 40, 40), 0.1)])
    )
    assert scores.mean_ap == pytest.approx(1 / 2)


def test_crowd_boxes_forgive_detections_and_are_not_counted():
    truth = make_ground_truth([(4, 2, (0, 0, 100, 100), 1), (4, 2, (110, 110, 40, 40))])
    detections = make_detections([(4, 2, (10, 10, 30, 30), 0.9), (4, 2, (110, 110, 40, 40), 0.5)])
    scores = assert_equals_pycocotools(truth, detections)
    assert scores.mean_ap == 1.0
    assert scores.ground_truth_boxes == scores.per_class[0].ground_truth_boxes == 1


def test_annotation_id_zero_counts_like_any_other():
    """pycocotools reads a match with annotation 0 as no match."""
    ground_truth = make_ground_truth([(4, 2, (0, 0, 40, 40))])
    ground_truth["annotations"][0]["id"] = 0
    scores = evaluate_coco(ground_truth, make_detections([(4, 2, (0, 0, 40, 40), 0.9)]))
    assert scores.mean_ap == 1.0


def test_area_and_iscrowd_may_be_missing():
    truth = [(4, 2, (0, 0, 40, 40)), (1, 3, (0, 0, 150, 150))]
    full, sparse = make_ground_truth(truth), make_ground_truth(truth)
    for annotation in sparse["annotations"]:
        del annotation["area"], annotation["iscrowd"]
    detections = make_detections([(4, 2, (0, 0, 40, 50), 0.9)])
    assert evaluate_coco(sparse, detections) == evaluate_coco(full, detections)


def test_classes_stand_in_the_order_of_the_file_not_of_their_ids():
    ground_truth = make_ground_truth([(4, 2, (0, 0, 40, 40)), (4, 7, (0, 0, 40, 40))], category_ids=(7, 3, 2))
    scores = evaluate_coco(ground_truth, make_detections([(4, 7, (0, 0, 40, 40), 0.9)]))
    assert [(c.name, c.ap) for c in scores.per_class] == [(NAMES[0], 1.0), (NAMES[1], None), (NAMES[2], 0.0)]


def test_a_larger_cap_lets_more_detections_count():
    """The only hit has the lowest score of 102: COCO's cap of 100 cuts it off."""
    ground_truth = make_ground_truth([(4, 2, (0, 0, 40, 40))])
    rows = [(4, 2, (150, 150, 10, 10), 0.9)] * 101 + [(4, 2, (0, 0, 40, 40), 0.1)]
    assert evaluate_coco(ground_truth, make_detections(rows)).mean_ap == 0.0
    scores = evaluate_coco(ground_truth, make_detections(rows), max_detections=(1, 10, 300))
    assert scores.mean_ap == pytest.approx(1 / 102)
    assert scores.mean_ar == {1: 0.0, 10: 0.0, 300: 1.0}


@pytest.mark.parametrize(("row", "named"), [((99, 2), "image_id 99"), ((4, 5), "category_id 5")])
def test_an_unknown_id_is_named(row, named):
    with pytest.raises(DatasetError, match=named):
        evaluate_coco(make_ground_truth([]), make_detections([(*row, (0, 0, 1, 1), 0.5)]))


def test_prints_nothing_and_leaves_its_arguments_alone(capfd):
    ground_truth = make_ground_truth([(4, 2, (0, 0, 40, 40))])
    detections = make_detections([(4, 2, (0, 0, 40, 40), 0.9)])
    before = copy.deepcopy((ground_truth, detections))
    evaluate_coco(ground_truth, detections)
    assert (ground_truth, detections) == before
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")


def test_metrics_are_json_with_documented_keys():
    truth = [(4, 2, (0, 0, 40, 40))]
    metrics = evaluate_coco(make_ground_truth(truth), make_detections([(4, 2, (0, 0, 40, 40), 0.9)])).to_metrics()
    text = json.dumps(metrics, allow_nan=False)
    assert json.loads(text) == metrics
    documented = CocoScores.to_metrics.__doc__
    for key in (*metrics, *metrics["per_class"][0]):
        assert f"``{key}``" in documented
    assert metrics["per_class"][1]["ap"] is None
