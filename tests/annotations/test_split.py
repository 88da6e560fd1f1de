"""Splits: whole groups, the asked share, nothing but seed and names decides."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxr_mmdet.annotations.split import split_groups
from cxr_mmdet.errors import DatasetError, UsageError

SINGLES = [f"p{number}" for number in range(500)]


def test_single_images_give_exactly_the_share():
    assert len(split_groups(SINGLES, 0.2, 42)) == 100
    assert len(split_groups(SINGLES, 0.31, 42)) == 155


def test_the_order_and_repetition_of_rows_change_nothing():
    groups = [name for number, name in enumerate(SINGLES) for _ in range(1 + number % 3)]
    expected = split_groups(groups, 0.2, 42)
    assert split_groups(groups[::-1], 0.2, 42) == expected
    assert split_groups(sorted(groups, key=lambda name: name[::-1]), 0.2, 42) == expected
    share = sum(name in expected for name in groups) / len(groups)
    assert share == pytest.approx(0.2, abs=1 / len(groups))


def test_another_seed_is_another_split():
    assert split_groups(SINGLES, 0.2, 42) != split_groups(SINGLES, 0.2, 43)


def test_the_choice_is_fixed_for_all_time():
    # Written down, not computed: published splits must not move with a release.
    assert sorted(split_groups([f"p{number}" for number in range(10)], 0.2, 42)) == ["p2", "p6"]


def test_a_grown_data_set_keeps_its_split():
    before = split_groups(SINGLES, 0.2, 42)
    after = split_groups([*SINGLES, "new1", "new2", "new3"], 0.2, 42)
    assert len(before - after) <= 3


def test_a_patient_larger_than_the_share_stays_in_training():
    groups = ["big"] * 90 + [f"p{number}" for number in range(10)]
    assert "big" not in split_groups(groups, 0.1, 0)
    assert len(split_groups(groups, 0.1, 0)) == 10


def test_two_large_patients_are_still_two_sides():
    assert split_groups(["a"] * 50 + ["b"] * 49, 0.2, 0) == {"b"}


def test_one_patient_cannot_be_split():
    with pytest.raises(DatasetError, match=re.escape("3 images of 1 patient cannot")):
        split_groups(["a", "a", "a"], 0.2, 0)
    with pytest.raises(DatasetError):
        split_groups([], 0.2, 0)


@pytest.mark.parametrize("ratio", [0, 1, -0.2, 1.5, float("nan")])
def test_a_share_that_is_none_is_refused(ratio):
    with pytest.raises(UsageError, match="--val-ratio"):
        split_groups(SINGLES, ratio, 42)


@given(
    sizes=st.lists(st.integers(1, 6), min_size=2, max_size=40),
    ratio=st.floats(0.01, 0.99),
    seed=st.integers(0, 2**31),
)
def test_both_sides_hold_somebody_and_the_share_is_met_within_a_group(sizes, ratio, seed):
    groups = [f"g{number}" for number, size in enumerate(sizes) for _ in range(size)]
    val = split_groups(groups, ratio, seed)
    assert 0 < len(val) < len(sizes)
    images = sum(group in val for group in groups)
    assert abs(images - ratio * len(groups)) <= max(sizes) + 0.5
