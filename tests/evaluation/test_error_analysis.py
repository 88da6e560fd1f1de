import numpy as np
import pytest
from detection_cases import NAMES, detector_like, found, make_detections, make_ground_truth, truths
from hypothesis import given, settings

from cxr_mmdet.evaluation.error_analysis import confusion, split_errors
from cxr_mmdet.evaluation.matching import DetectionTable, TruthTable
from cxr_mmdet.structures.boxes import iou_matrix, xywh_to_xyxy

HEART = (0, 0, 40, 40)
HALF = (0, 0, 40, 12)  # IoU 0.3 with HEART
AWAY = (150, 150, 20, 20)


def tables(truth, detections):
    return TruthTable.of(truth), DetectionTable.of(truth, detections)


def matrix(truth, detections, score_threshold=0.25, iou_threshold=0.4):
    return confusion(
        *tables(truth, detections), score_threshold=score_threshold, iou_threshold=iou_threshold
    ).counts.tolist()


def test_confusion_by_hand():
    """Classes 7, 2, 3 and background: a hit, a class taken for another, a miss, a false alarm, one below the cut."""
    truth = make_ground_truth([(4, 7, HEART), (1, 2, HEART), (30, 3, HEART)])
    rows = [(4, 7, HEART, 0.9), (1, 7, HEART, 0.8), (12, 2, HEART, 0.7), (30, 3, HEART, 0.2)]
    assert matrix(truth, make_detections(rows)) == [
        [1, 0, 0, 0],
        [1, 0, 0, 0],
        [0, 0, 0, 1],
        [0, 1, 0, 0],
    ]


def test_two_findings_in_one_place_are_not_taken_for_each_other():
    """Sorted by score alone, the nodule's detection would take the heart's box."""
    truth = make_ground_truth([(4, 7, HEART), (4, 2, (0, 0, 40, 36))])
    rows = [(4, 2, HEART, 0.9), (4, 7, HEART, 0.8)]
    assert matrix(truth, make_detections(rows)) == [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]


def test_a_second_detection_of_a_box_is_a_false_alarm_and_crowds_do_not_count():
    truth = make_ground_truth([(4, 7, HEART), (1, 7, HEART, 1)])
    assert matrix(truth, make_detections([(4, 7, HEART, 0.9), (4, 7, HEART, 0.8)])) == [
        [1, 0, 0, 0],
        [0, 0, 0, 0],
        [0, 0, 0, 0],
        [1, 0, 0, 0],
    ]


def test_a_detection_in_a_region_of_its_class_is_no_error_of_any_kind():
    """It was a false alarm: its IoU with the much larger region is small."""
    region = (100, 0, 100, 200)
    truth = make_ground_truth([(4, 7, HEART), (4, 7, region, 1), (4, 2, (120, 20, 20, 20))])
    plain = make_ground_truth([(4, 7, HEART), (4, 2, (120, 20, 20, 20))])
    rows = [(4, 7, HEART, 0.9), (4, 7, (120, 20, 20, 20), 0.95), (4, 7, (150, 100, 10, 10), 0.8)]
    assert matrix(truth, make_detections(rows)) == matrix(plain, make_detections(rows[:1]))
    assert split_errors(*tables(truth, make_detections(rows))) == split_errors(
        *tables(plain, make_detections(rows[:1]))
    )
    other = make_detections([(4, 3, (150, 100, 10, 10), 0.8)])
    assert matrix(truth, other)[3] == [0, 0, 1, 0], "the region excuses its own class only"


@settings(max_examples=80)
@given(truths, found)
def test_every_box_and_every_detection_is_counted_once(truth, detections):
    counts = np.array(matrix(truth, detections))
    boxes = [sum(a["category_id"] == c and not a["iscrowd"] for a in truth["annotations"]) for c in (7, 2, 3)]
    shown = [sum(d["category_id"] == c and d["score"] >= 0.25 for d in detections) for c in (7, 2, 3)]
    assert counts[:-1].sum(axis=1).tolist() == boxes
    excused = shown - counts[:, :-1].sum(axis=0)
    assert (excused >= 0).all()
    if not any(a["iscrowd"] for a in truth["annotations"]):
        assert not excused.any()
    assert counts[-1, -1] == 0


def test_confusion_to_json():
    truth = make_ground_truth([(4, 7, HEART)])
    result = confusion(*tables(truth, []), score_threshold=0.5, iou_threshold=0.4).to_json()
    assert result == {
        "names": list(NAMES),
        "counts": [[0, 0, 0, 1], [0] * 4, [0] * 4, [0] * 4],
        "score_threshold": 0.5,
        "iou_threshold": 0.4,
    }


def test_each_kind_of_error_by_hand():
    """One image an error; TIDE's rules: hit from IoU 0.5, background below 0.1."""
    truth = make_ground_truth(
        [(1, 7, HEART), (2, 7, HEART), (3, 7, HEART), (4, 7, HEART), (5, 7, HEART), (6, 7, HEART), (1, 2, AWAY)],
        image_ids=tuple(range(1, 8)),
    )
    rows = [
        (1, 7, HEART, 0.9),
        (1, 7, HEART, 0.85),  # duplicate
        (2, 2, HEART, 0.8),  # class
        (3, 7, HALF, 0.7),  # localisation
        (4, 2, HALF, 0.6),  # both
        (7, 7, HEART, 0.5),  # background
        (1, 2, AWAY, 0.4),
    ]
    counts = {kind.name: kind.count for kind in split_errors(*tables(truth, make_detections(rows)))}
    # Boxes that a wrong class or a poor box lies near are not missed; those of images 4, 5 and 6 are.
    assert counts == {"class": 1, "localisation": 1, "both": 1, "duplicate": 1, "background": 1, "missed": 3}


def literal_counts(truth, detections):
    """TIDE's definitions, detection by detection, for boxes without crowds."""
    counts = dict.fromkeys(("class", "localisation", "both", "duplicate", "background"), 0)
    matched = {}
    order = sorted(range(len(detections)), key=lambda i: -detections[i]["score"])
    for i in order:
        entry = detections[i]
        near = [
            (iou_matrix(xywh_to_xyxy([entry["bbox"]]), xywh_to_xyxy([a["bbox"]]))[0, 0], a)
            for a in truth["annotations"]
            if a["image_id"] == entry["image_id"]
        ]
        free = [
            (value, a)
            for value, a in near
            if a["category_id"] == entry["category_id"] and value >= 0.5 and a["id"] not in matched.values()
        ]
        if free:
            matched[i] = max(free, key=lambda pair: pair[0])[1]["id"]
    for i, entry in enumerate(detections):
        if i in matched:
            continue
        near = [
            (
                iou_matrix(xywh_to_xyxy([entry["bbox"]]), xywh_to_xyxy([a["bbox"]]))[0, 0],
                a["category_id"] == entry["category_id"],
                a["id"] in matched.values(),
            )
            for a in truth["annotations"]
            if a["image_id"] == entry["image_id"]
        ]
        own = max((value for value, same, _ in near if same), default=0)
        other = max((value for value, same, _ in near if not same), default=0)
        if 0.1 <= own < 0.5:
            counts["localisation"] += 1
        elif other >= 0.5:
            counts["class"] += 1
        elif any(same and value >= 0.5 and used for value, same, used in near):
            counts["duplicate"] += 1
        elif max(own, other) < 0.1:
            counts["background"] += 1
        else:
            counts["both"] += 1
    return counts


@pytest.mark.parametrize("seed", range(4))
def test_counts_follow_tides_definitions(seed):
    truth, detections = detector_like(seed, images=25)
    kinds = {kind.name: kind for kind in split_errors(*tables(truth, detections))}
    expected = literal_counts(truth, detections)
    assert {name: kinds[name].count for name in expected} == expected
    assert all(kind.cost >= 0 for kind in kinds.values())
    assert kinds["localisation"].cost > 0


def test_no_boxes_no_errors():
    assert split_errors(*tables(make_ground_truth([]), make_detections([(4, 7, HEART, 0.9)]))) == ()
    assert split_errors(*tables({"images": [], "annotations": [], "categories": []}, [])) == ()
    nothing_found = split_errors(*tables(make_ground_truth([(4, 7, HEART)]), []))
    assert {kind.name: kind.count for kind in nothing_found}["missed"] == 1
