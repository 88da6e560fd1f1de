"""Verdicts: what each needs, what replaces what, and when a reading is finished."""

from __future__ import annotations

import pytest

from cxr_mmdet.structures.detections import Detections, Findings
from cxr_mmdet.web.actions import parse_box
from cxr_mmdet.web.verdicts import Kind, Reading, ReadingError

SIZE_HW = (100, 80)


def two_findings():
    detections = Detections([[10, 10, 30, 40], [0, 0, 80, 100]], [1, 0], [0.9, 0.4], ("ILD", "Cardiomegaly"))
    return list(Findings.of(detections, size_hw=SIZE_HW, model_id="m"))


def judge(reading, kind, finding=None, class_name=None, box=None):
    return reading.judge(kind, finding, class_name=class_name, box=box, size_hw=SIZE_HW)


def test_a_finding_keeps_its_name_when_others_go():
    both = two_findings()
    detections = Detections([[0, 0, 80, 100]], [0], [0.4], ("ILD", "Cardiomegaly"))
    alone = list(Findings.of(detections, size_hw=SIZE_HW, model_id="m"))
    assert alone[0].key == both[1].key
    assert both[0].key != both[1].key


def test_each_verdict_says_what_is_right():
    first, second = two_findings()
    reading = Reading()
    assert judge(reading, Kind.agree, first).class_name == "Cardiomegaly"
    assert judge(reading, Kind.wrong_class, second, class_name="Cardiomegaly").box_xyxy == second.box_xyxy
    assert judge(reading, Kind.missed, class_name="ILD", box=(1, 2, 30, 40)).finding_key is None
    assert len(reading.said) == 3
    redrawn = judge(reading, Kind.wrong_box, first, box=(5, 5, 200, 50))
    assert redrawn.box_xyxy == (5, 5, 80, 50)
    assert redrawn.class_name == "Cardiomegaly"
    assert len(reading.said) == 3, "a later verdict replaces the earlier one"
    assert judge(reading, Kind.absent, second).box_xyxy == second.box_xyxy


@pytest.mark.parametrize(
    ("kind", "chosen", "class_name", "box", "message"),
    [
        (Kind.agree, False, None, None, "choose a finding first"),
        (Kind.wrong_class, True, None, None, "choose the class that it is instead of"),
        (Kind.wrong_class, True, "Cardiomegaly", None, "choose the class that it is instead of"),
        (Kind.wrong_box, True, None, None, "draw the box first"),
        (Kind.wrong_box, True, None, (90, 0, 99, 50), "covers no pixel"),
        (Kind.missed, False, None, (1, 1, 9, 9), "choose the class that was missed"),
        (Kind.missed, False, "ILD", None, "draw the box first"),
    ],
)
def test_what_is_missing_is_said(kind, chosen, class_name, box, message):
    reading = Reading()
    with pytest.raises(ReadingError, match=message):
        judge(reading, kind, two_findings()[0] if chosen else None, class_name, box)
    assert reading.said == []


def test_a_reading_is_finished_when_nothing_shown_is_open():
    first, second = shown = two_findings()
    reading = Reading()
    with pytest.raises(ReadingError, match="2 findings wait for a verdict, the first is Cardiomegaly"):
        reading.finish(shown)
    judge(reading, Kind.agree, first)
    with pytest.raises(ReadingError, match="1 finding waits"):
        reading.finish(shown)
    reading.finish([first])
    assert reading.finished
    judge(reading, Kind.absent, second)
    assert not reading.finished, "a new verdict opens it again"
    reading.finish(shown)
    reading.take_back(first.key)
    assert not reading.finished
    assert list(reading.verdicts) == [second.key]


def test_nothing_found_and_nothing_missed_is_a_reading_too():
    reading = Reading()
    reading.finish([])
    assert reading.finished
    assert reading.said == []


def test_the_last_verdict_is_taken_back_unless_another_is_chosen():
    first, second = two_findings()
    reading = Reading()
    assert reading.take_back(None) is None
    judge(reading, Kind.agree, first)
    for width in (10, 20):
        judge(reading, Kind.missed, class_name="ILD", box=(0, 0, width, 10))
    assert reading.take_back(second.key).box_xyxy[2] == 20, "nothing was said of it"
    assert reading.take_back(first.key).finding_key == first.key
    assert [verdict.box_xyxy[2] for verdict in reading.said] == [10]
    assert reading.take_back(None).kind is Kind.missed
    assert reading.said == []


@pytest.mark.parametrize("text", ["1, 2, 3.5, 4", "1 2 3.5 4", " 1;2;3.5;4 "])
def test_a_box_may_be_typed(text):
    assert parse_box(text) == (1, 2, 3.5, 4)


def test_a_box_that_is_none():
    assert parse_box("") is None
    for text in ("1,2,3", "a,b,c,d", "1,2,3,4,5"):
        with pytest.raises(ReadingError, match="four numbers"):
            parse_box(text)
