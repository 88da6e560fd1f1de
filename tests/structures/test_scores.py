from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxr_mmdet.errors import UsageError
from cxr_mmdet.structures.scores import (
    beyond,
    in_single_precision,
    parse_class_thresholds,
    printed_threshold,
    reaches,
)

scores = st.floats(2**-20, 1, width=32)


def test_a_score_reaches_a_threshold_equal_to_it():
    assert reaches([0.3, 0.29, 0.31], 0.3).tolist() == [True, False, True]
    assert reaches([0.3, 0.3], [0.3, 0.4]).tolist() == [True, False]


@given(scores, st.one_of(scores, st.floats(0, 1)))
def test_single_precision_cuts_as_double_precision_does(score, threshold):
    kept = np.float32(score) >= in_single_precision(threshold)
    assert bool(kept) == (score >= threshold)
    assert bool(np.float32(score) >= beyond(threshold)) == (np.float32(score) > np.float32(threshold))


def test_a_score_of_0_is_never_a_finding():
    assert not reaches(np.zeros(1, np.float32), in_single_precision(0.0))[0]


@pytest.mark.parametrize(
    ("threshold", "others", "printed"),
    [
        (0.3, [], "0.300"),
        (0.9996, [], "0.999"),  # 1.000 would drop it
        (0.30049, [0.3002, 0.9], "0.3004"),  # 0.300 would keep 0.3002 as well
        (0.3004900001, [0.30049], "0.3004900001"),
        (float(np.float32(0.3)), [], "0.300"),
        (1.0, [0.999999], "1.000"),
        (0.0, [], "0.000"),
        (2e-9, [1e-9], "0.000000002"),
    ],
)
def test_printed_thresholds_round_down_as_far_as_they_cut_alike(threshold, others, printed):
    assert printed_threshold(threshold, [threshold, *others]) == printed


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_a_printed_threshold_keeps_the_same_scores(values):
    for threshold in values:
        printed = float(printed_threshold(threshold, values))
        assert reaches(values, printed).tolist() == reaches(values, threshold).tolist()


def test_class_thresholds_are_given_one_by_one_or_in_a_file(tmp_path: Path):
    (tmp_path / "thresholds.toml").write_text('"Nodule/Mass" = 0.25\nILD = 0.4\n')
    options = ["A=B=0.5", str(tmp_path / "thresholds.toml"), "ILD=0.2"]
    assert parse_class_thresholds(options) == {"A=B": 0.5, "Nodule/Mass": 0.25, "ILD": 0.2}


@pytest.mark.parametrize("text", ["ILD", "=0.2", "ILD=x", "ILD=1.5", "ILD=nan", "nowhere.toml"])
def test_other_class_thresholds_are_refused(text: str):
    with pytest.raises(UsageError, match=r"nowhere.toml: cannot be read|--class-threshold .*: expected CLASS=SCORE"):
        parse_class_thresholds([text])
