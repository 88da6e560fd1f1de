from detection_cases import make_detections, make_ground_truth

from cxr_mmdet.evaluation.headline import match_all
from cxr_mmdet.evaluation.panels import best_scores, found_by_one, worst_false_alarms, worst_misses

SMALL, LARGE, AWAY = (10, 10, 20, 20), (60, 60, 90, 90), (5, 150, 30, 30)


def test_misses_nothing_met_come_first_then_the_largest_one_an_image():
    truth = make_ground_truth(
        [(4, 7, SMALL), (1, 7, LARGE), (1, 2, SMALL), (30, 7, LARGE), (12, 7, LARGE), (12, 3, AWAY, 1)]
    )
    detections = make_detections([(4, 7, SMALL, 0.2), (30, 7, LARGE, 0.1), (12, 7, LARGE, 0.9)])
    matched = match_all(truth, detections)
    assert best_scores(matched).tolist() == [0.2, 0, 0, 0.1, 0.9, 0]
    found = worst_misses(matched, 0.5, 5)
    # Image 1 holds two that nothing met: its larger one stands for it.
    assert [(extreme.row, extreme.image, extreme.score) for extreme in found] == [(1, 1, 0.0), (3, 2, 0.1), (0, 0, 0.2)]
    assert [extreme.row for extreme in worst_misses(matched, 0.5, 2)] == [1, 3]
    assert [extreme.row for extreme in worst_misses(matched, 0.15, 5)] == [1, 3]


def test_false_alarms_the_surest_first_without_duplicates():
    truth = make_ground_truth([(4, 7, LARGE)])
    detections = make_detections(
        [
            (4, 7, LARGE, 0.9),
            (4, 7, LARGE, 0.8),  # a duplicate
            (4, 2, LARGE, 0.7),  # another class
            (4, 7, SMALL, 0.6),
            (12, 7, SMALL, 0.95),
            (30, 7, SMALL, 0.4),
        ]
    )
    found = worst_false_alarms(match_all(truth, detections), 0.5, 5)
    assert [(extreme.row, extreme.image, extreme.label) for extreme in found] == [(4, 3, 0), (2, 0, 1)]


def test_boxes_that_one_detector_finds_alone():
    truth = make_ground_truth([(4, 7, LARGE), (1, 7, LARGE), (30, 7, LARGE), (12, 7, LARGE)])
    first = match_all(truth, make_detections([(4, 7, LARGE, 0.9), (1, 7, LARGE, 0.6), (30, 7, LARGE, 0.3)]))
    second = match_all(truth, make_detections([(4, 7, LARGE, 0.7), (1, 7, LARGE, 0.1), (12, 7, LARGE, 0.8)]))
    assert [extreme.row for extreme in found_by_one(first, second, (0.5, 0.5), 5)] == [1]
    assert [extreme.row for extreme in found_by_one(second, first, (0.5, 0.5), 5)] == [3]
    assert [extreme.row for extreme in found_by_one(first, second, (0.2, 0.5), 5)] == [1, 2]
    for undefined in ((0.5, None), (None, 0.5), (None, None)):
        assert found_by_one(first, second, undefined, 5) == [], "no operating point, nothing found alone"


def test_nothing_to_show():
    matched = match_all(make_ground_truth([]), [])
    assert worst_misses(matched, 0.5, 3) == worst_false_alarms(matched, 0.5, 3) == []
    assert found_by_one(matched, matched, (0.5, 0.5), 3) == []
