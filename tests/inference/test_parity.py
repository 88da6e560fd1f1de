"""Comparison of an exported model with torch: what counts as a counterpart, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cxr_mmdet.inference.export.parity import EXACT, compare_findings, nothing_compared, quantised_limits
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


def compare(other):
    return compare_findings("one", [findings()], [other], score_threshold=0.05)


def test_every_difference_counts():
    parity = compare(findings(moved=6.0, scored=0.05))
    assert parity.unmatched == 0
    assert parity.problems(EXACT) == ["a box differs by 6 px (limit 0.5)", "a score differs by 0.05 (limit 0.001)"]


def test_one_finding_without_counterpart_is_too_many():
    parity = compare(findings(moved=45.0))
    assert parity.problems(EXACT) == ["1 of 200 findings have no counterpart"]
    assert parity.problems(quantised_limits(0.01)) == []


def test_within_the_limits_the_differences_are_stated():
    parity = compare(findings(moved=0.4, scored=0.0009, places=COUNT))
    assert (parity.unmatched, parity.problems(EXACT)) == (0, [])
    assert parity.largest_box_difference_px == pytest.approx(0.4)
    assert parity.largest_score_difference == pytest.approx(0.0009)


def test_an_order_of_queries_that_the_scores_contradict():
    parity = replace(compare(findings()), largest_order_difference=0.0009)
    assert parity.problems(EXACT) == []
    problems = replace(parity, largest_order_difference=0.02).problems(EXACT)
    assert problems == ["torch's scores contradict the order of the queries by 0.02 (limit 0.001)"]


def test_nothing_found_on_either_side():
    nothing = replace(findings(), boxes_xyxy=np.empty((0, 4)), labels=np.empty(0, int), scores=np.empty(0))
    for expected, got, lost in ((nothing, findings(), 0), (findings(), nothing, COUNT), (nothing, nothing, 0)):
        parity = compare_findings("one", [expected], [got], score_threshold=0.05)
        assert (parity.findings, parity.unmatched) == (len(expected), lost)
        assert parity.additional == (COUNT if got is not nothing and expected is nothing else 0)


def test_a_comparison_of_nothing_says_so():
    """An export of a hardly trained detector passed, as if it had been compared."""
    nothing = replace(findings(), boxes_xyxy=np.empty((0, 4)), labels=np.empty(0, int), scores=np.empty(0))
    empty, full = (
        compare_findings("one", [found], [found], score_threshold=0.05).to_json() for found in (nothing, findings())
    )
    assert nothing_compared([empty, empty]).startswith("Torch found nothing clear")
    assert nothing_compared([empty, full]) == ""
    assert nothing_compared([]) == ""


def test_a_finding_that_torch_does_not_have_is_too_many():
    """Only torch's findings were looked for in the other, so that a graph which found more of them passed."""
    torchs, more = findings(), findings()
    torchs = replace(torchs, **{key: getattr(torchs, key)[1:] for key in ("boxes_xyxy", "labels", "scores")})
    parity = compare_findings("one", [torchs], [more], score_threshold=0.05)
    assert parity.problems(EXACT) == ["1 finding without counterpart in torch"]
    assert parity.problems(quantised_limits(0.01)) == []
    weak = replace(more, scores=np.append(0.055, more.scores[1:]))  # too near the threshold to tell
    assert compare_findings("one", [torchs], [weak], score_threshold=0.05).problems(EXACT) == []
