"""Comparison of an exported model with torch: what counts as a counterpart, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cxr_mmdet.inference.export.parity import EXACT, RANKED, compare_findings
from cxr_mmdet.structures.detections import Findings

COUNT = 200


def findings(*, moved=0.0, scored=0.0, places=1):
    """Return boxes of 40 px side by side; those of the first places move and score otherwise."""
    left = 50.0 * np.arange(COUNT)
    boxes = np.stack([left, left * 0, left + 40, left * 0 + 40], axis=1)
    scores = np.linspace(0.9, 0.5, COUNT)
    boxes[:places, [0, 2]] += moved
    scores[:places] -= scored
    labels = np.zeros(COUNT, int)
    return Findings(boxes, labels, scores, ("a",), size_hw=(50, 50 * COUNT), model_id="m")


def compare(other, within):
    return compare_findings("one", [findings()], [other], score_threshold=0.05, within=within)


@pytest.mark.parametrize("change", [{"moved": 6.0}, {"scored": 0.05}, {"moved": 45.0}])
def test_a_query_that_was_exchanged_has_no_counterpart_however_far_it_went(change):
    for places, problems in ((2, []), (3, ["3 of 200 findings have no counterpart"])):
        parity = compare(findings(places=places, **change), RANKED)
        assert parity.unmatched == places
        assert parity.largest_box_difference_px == parity.largest_score_difference == 0
        assert parity.problems(RANKED) == problems


def test_elsewhere_every_difference_counts():
    parity = compare(findings(moved=6.0, scored=0.05), None)
    assert parity.unmatched == 0
    assert parity.problems(EXACT) == ["a box differs by 6 px (limit 0.5)", "a score differs by 0.05 (limit 0.005)"]


def test_within_the_limits_the_differences_are_stated():
    parity = compare(findings(moved=1.5, scored=0.01, places=COUNT), RANKED)
    assert (parity.unmatched, parity.problems(RANKED)) == (0, [])
    assert parity.largest_box_difference_px == pytest.approx(1.5)
    assert parity.largest_score_difference == pytest.approx(0.01)


@pytest.mark.parametrize("within", [None, RANKED])
def test_nothing_found_on_either_side(within):
    nothing = replace(findings(), boxes_xyxy=np.empty((0, 4)), labels=np.empty(0, int), scores=np.empty(0))
    for expected, got, lost in ((nothing, findings(), 0), (findings(), nothing, COUNT), (nothing, nothing, 0)):
        parity = compare_findings("one", [expected], [got], score_threshold=0.05, within=within)
        assert (parity.findings, parity.unmatched) == (len(expected), lost)
