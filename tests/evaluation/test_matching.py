import numpy as np
import pytest
from detection_cases import CATEGORY_IDS, NAMES, detector_like, found, make_detections, make_ground_truth, truths
from hypothesis import given, settings

from cxr_mmdet.errors import DatasetError
from cxr_mmdet.evaluation import matching as tables
from cxr_mmdet.evaluation.matching import match_detections
from cxr_mmdet.structures.boxes import iou_matrix, xywh_to_xyxy
from cxr_mmdet.structures.enums import HitCriterion

HEART = (10, 10, 40, 40)


def outcome(matches):
    """Return (score, what became of it) of every detection of a class."""
    words = np.where(matches.hits, "hit", np.where(matches.duplicates, "duplicate", "false"))
    return list(zip(matches.scores.tolist(), words.tolist(), strict=True))


def test_one_entry_a_category_in_file_order_with_the_images_in_file_order():
    truth = make_ground_truth([(30, 2, HEART), (30, 2, (100, 100, 9, 9)), (4, 3, HEART)])
    matches = match_detections(truth, make_detections([(12, 2, HEART, 0.3), (30, 2, HEART, 0.2)]))
    assert [entry.name for entry in matches] == list(NAMES)
    nodules = matches[CATEGORY_IDS.index(2)]
    assert nodules.positives.tolist() == [0, 0, 2, 0]  # images 4, 1, 30, 12
    assert nodules.image_index.tolist() == [3, 2]
    assert nodules.detection_index.tolist() == [0, 1]
    assert nodules.annotation_index.tolist() == [-1, 0]
    assert outcome(nodules) == [(0.3, "false"), (0.2, "hit")]
    assert (nodules.boxes, matches[0].boxes, matches[2].boxes) == (2, 0, 1)


def test_the_highest_score_hits_and_later_ones_are_duplicates():
    truth = make_ground_truth([(4, 7, HEART)])
    rows = [(4, 7, (11, 11, 40, 40), 0.2), (4, 7, HEART, 0.9), (4, 7, HEART, 0.5)]
    assert outcome(match_detections(truth, make_detections(rows))[0]) == [
        (0.9, "hit"),
        (0.5, "duplicate"),
        (0.2, "duplicate"),
    ]


def test_a_detection_does_not_turn_to_a_second_box_when_its_best_one_is_taken():
    """VOC's rule, where COCO would let it hit the other box."""
    truth = make_ground_truth([(4, 7, (0, 0, 40, 40)), (4, 7, (10, 0, 40, 40))])
    rows = [(4, 7, (0, 0, 40, 40), 0.9), (4, 7, (2, 0, 40, 40), 0.8)]
    assert outcome(match_detections(truth, make_detections(rows))[0]) == [(0.9, "hit"), (0.8, "duplicate")]


def test_iou_must_be_above_the_threshold():
    truth = make_ground_truth([(4, 7, (0, 0, 10, 10))])
    half = make_detections([(4, 7, (0, 0, 10, 5), 0.9)])  # IoU 50 / 100
    assert outcome(match_detections(truth, half, iou_threshold=0.5)[0]) == [(0.9, "false")]
    assert outcome(match_detections(truth, half, iou_threshold=0.4999)[0]) == [(0.9, "hit")]


def test_centre_in_box_forgives_size_and_takes_the_nearest_in_iou():
    truth = make_ground_truth([(4, 7, (0, 0, 100, 100)), (4, 7, (40, 40, 20, 20))])
    rows = [(4, 7, (45, 45, 10, 10), 0.9), (4, 7, (0, 0, 4, 4), 0.8), (4, 7, (101, 0, 8, 8), 0.7)]
    by_centre = match_detections(truth, make_detections(rows), criterion=HitCriterion.CENTRE)[0]
    assert outcome(by_centre) == [(0.9, "hit"), (0.8, "hit"), (0.7, "false")]
    assert by_centre.annotation_index.tolist() == [1, 0, -1]
    assert not match_detections(truth, make_detections(rows))[0].hits.any()


def test_a_centre_on_the_border_is_inside():
    truth = make_ground_truth([(4, 7, (10, 10, 40, 40))])
    rows = make_detections([(4, 7, (0, 0, 20, 20), 0.5)])
    assert match_detections(truth, rows, criterion=HitCriterion.CENTRE)[0].hits.tolist() == [True]


def test_crowd_boxes_are_neither_to_be_found_nor_wrong_to_find():
    truth = make_ground_truth([(4, 7, HEART, 1)])
    matches = match_detections(truth, make_detections([(4, 7, HEART, 0.9), (4, 7, (100, 100, 9, 9), 0.5)]))[0]
    assert outcome(matches) == [(0.5, "false")]
    assert matches.boxes == 0


def test_a_detection_in_a_crowd_region_counts_for_nothing_unless_it_hits():
    """The region is much larger than what it holds: the IoU says nothing, the share of the detection does."""
    truth = make_ground_truth([(4, 7, (0, 0, 100, 200), 1), (4, 7, HEART)])
    rows = [
        (4, 7, (50, 150, 10, 10), 0.9),  # in the region
        (4, 7, HEART, 0.8),
        (4, 7, HEART, 0.7),  # a duplicate in the region
        (4, 7, (97, 0, 10, 10), 0.6),  # 30 % of it in the region
        (4, 7, (150, 0, 10, 10), 0.5),
        (4, 2, (50, 150, 10, 10), 0.4),  # of another class
    ]
    by_iou, nodules, _ = match_detections(truth, make_detections(rows))
    assert outcome(by_iou) == [(0.8, "hit"), (0.6, "false"), (0.5, "false")]
    assert outcome(nodules) == [(0.4, "false")]
    by_centre = match_detections(truth, make_detections(rows), criterion=HitCriterion.CENTRE)[0]
    assert outcome(by_centre) == [(0.8, "hit"), (0.6, "false"), (0.5, "false")]


def test_nothing_annotated_nothing_detected_no_image_at_all():
    for truth, rows in (
        (make_ground_truth([]), []),
        (make_ground_truth([(4, 7, HEART)]), []),
        (make_ground_truth([]), make_detections([(4, 7, HEART, 0.9)])),
        ({"images": [], "annotations": [], "categories": []}, []),
    ):
        matches = match_detections(truth, rows)
        assert sum(len(entry.scores) for entry in matches) == len(rows)
        assert not any(entry.hits.any() for entry in matches)


def test_one_pixel_and_the_image_border():
    truth = make_ground_truth([(4, 7, (199, 199, 1, 1))])
    rows = make_detections([(4, 7, (199, 199, 1, 1), 0.9), (4, 7, (198, 199, 1, 1), 0.8)])
    assert outcome(match_detections(truth, rows)[0]) == [(0.9, "hit"), (0.8, "false")]


@pytest.mark.parametrize(("row", "named"), [((99, 2), "image_id 99"), ((4, 5), "category_id 5")])
def test_an_unknown_id_is_named(row, named):
    with pytest.raises(DatasetError, match=named):
        match_detections(make_ground_truth([]), make_detections([(*row, (0, 0, 1, 1), 0.5)]))


@settings(max_examples=80)
@given(truths, found)
def test_pairs_are_all_that_overlap(truth, detections):
    truth_table, found_table = tables.TruthTable.of(truth), tables.DetectionTable.of(truth, detections)
    for same_class in (True, False):
        pairs = tables.overlapping_pairs(truth_table, found_table, same_class=same_class)
        expected = []
        for i, entry in enumerate(detections):
            for j, annotation in enumerate(truth["annotations"]):
                if entry["image_id"] != annotation["image_id"]:
                    continue
                if same_class and entry["category_id"] != annotation["category_id"]:
                    continue
                value = iou_matrix(xywh_to_xyxy([entry["bbox"]]), xywh_to_xyxy([annotation["bbox"]]))[0, 0]
                expected += [(i, j, value)] if value > 0 else []
        assert list(zip(pairs.found.tolist(), pairs.truth.tolist(), pairs.iou.tolist(), strict=True)) == expected


def test_pairs_do_not_depend_on_how_many_are_compared_at_once(monkeypatch):
    truth, detections = detector_like(3)
    columns = tables.TruthTable.of(truth), tables.DetectionTable.of(truth, detections)
    whole = tables.overlapping_pairs(*columns, same_class=False)
    monkeypatch.setattr(tables, "PAIRS_AT_ONCE", 3)
    parts = tables.overlapping_pairs(*columns, same_class=False)
    assert len(whole.iou) > 100
    for name in ("found", "truth", "iou"):
        np.testing.assert_array_equal(getattr(parts, name), getattr(whole, name))
