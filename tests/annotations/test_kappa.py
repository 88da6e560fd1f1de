"""Kappa: equal to what others compute, undefined where it is undefined."""

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from cxr_mmdet.annotations.agreement import cohen_kappa, fleiss_kappa


def fleiss_1971(yes, raters):
    """Return Fleiss' kappa as his paper writes it, from how many of ``raters`` say yes of each thing."""
    counts = np.stack([yes, raters - np.asarray(yes)], axis=1)
    share = counts.sum(axis=0) / counts.sum()
    observed = ((counts**2).sum(axis=1) - raters) / (raters * (raters - 1))
    expected = (share**2).sum()
    return (observed.mean() - expected) / (1 - expected)


@pytest.mark.parametrize("seed", range(5))
def test_two_raters_as_scikit_learn_has_it(seed):
    rng = np.random.default_rng(seed)
    first = rng.random(50) < 0.3
    second = np.where(rng.random(50) < 0.8, first, ~first)
    assert cohen_kappa(first, second) == pytest.approx(cohen_kappa_score(first, second))


def test_two_raters_by_hand():
    # 2 x yes-yes, 1 x yes-no, 1 x no-yes, 6 x no-no: observed 8/10, expected 0.3 * 0.3 + 0.7 * 0.7.
    first = np.array([1, 1, 1, 0] + [0] * 6, bool)
    second = np.array([1, 1, 0, 1] + [0] * 6, bool)
    assert cohen_kappa(first, second) == pytest.approx((0.8 - 0.58) / (1 - 0.58))


@pytest.mark.parametrize("raters", [2, 3, 5])
def test_many_raters_as_fleiss_has_it(raters):
    rng = np.random.default_rng(raters)
    yes = rng.integers(0, raters + 1, 40)
    things = np.repeat(np.arange(40), raters)
    says = np.concatenate([np.arange(raters) < count for count in yes])
    assert fleiss_kappa(things, says) == pytest.approx(fleiss_1971(yes, raters))


def test_unequal_numbers_of_raters_by_hand():
    # 3 of 3, 0 of 2, 1 of 2 say yes: mean number 7/3, share 4/7.
    things, says = np.array([0, 0, 0, 1, 1, 2, 2]), np.array([1, 1, 1, 0, 0, 1, 0], bool)
    expected = 1 - (1 * 1 / 2) / (3 * (7 / 3 - 1) * (4 / 7) * (3 / 7))
    assert fleiss_kappa(things, says) == pytest.approx(expected)
    # One rater of a thing says nothing about agreement.
    assert fleiss_kappa(np.append(things, 3), np.append(says, True)) == pytest.approx(expected)


def test_full_agreement_is_one_and_sameness_is_undefined():
    things, says = np.array([0, 0, 1, 1]), np.array([1, 1, 0, 0], bool)
    assert fleiss_kappa(things, says) == pytest.approx(1)
    assert cohen_kappa(says, says) == pytest.approx(1)
    nobody = np.zeros(4, bool)
    assert fleiss_kappa(things, nobody) is None
    assert cohen_kappa(nobody, nobody) is None
    assert cohen_kappa(nobody[:0], nobody[:0]) is None
    assert fleiss_kappa(np.array([0, 1]), np.array([True, False])) is None
