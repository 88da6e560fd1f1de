"""Agreement beyond chance on a yes-or-no question; undefined is None."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def cohen_kappa(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> float | None:
    """Return the kappa of two raters of the same things (Cohen 1960); None where both say the same of everything.

    Args:
        first: (N,) what one rater says.
        second: (N,) what the other says.
    """
    if not len(first):
        return None
    observed = np.mean(first == second)
    yes = first.mean() * second.mean()
    expected = yes + (1 - first.mean()) * (1 - second.mean())
    return None if expected >= 1 else float((observed - expected) / (1 - expected))


def fleiss_kappa(things: NDArray[np.int64], says_yes: NDArray[np.bool_]) -> float | None:
    """Return the kappa of many raters, whose number may differ from thing to thing; None where nobody disagrees at all.

    Fleiss' kappa for two answers in the form for unequal numbers of ratings: Fleiss and Cuzick, Applied Psychological
    Measurement 3 (1979), 537-542. Things that one rater saw are left out. With equal numbers it is Fleiss' of 1971.

    Args:
        things: (N,) what each rating is about, as numbers from 0.
        says_yes: (N,) the ratings.
    """
    ratings = np.bincount(things)
    positive = np.bincount(things, weights=says_yes)
    positive, ratings = positive[ratings > 1], ratings[ratings > 1]
    if not len(ratings):
        return None
    share = positive.sum() / ratings.sum()
    if share in (0, 1):
        return None
    disagreement = (positive * (ratings - positive) / ratings).sum()
    return float(1 - disagreement / (len(ratings) * (ratings.mean() - 1) * share * (1 - share)))
