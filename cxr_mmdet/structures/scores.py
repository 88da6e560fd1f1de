"""The one rule for score thresholds, ``score >= threshold``, and thresholds printed so that they keep it."""

from __future__ import annotations

import math
from decimal import ROUND_FLOOR, Decimal
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cxr_mmdet.errors import UsageError
from cxr_mmdet.files import read_toml

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import ArrayLike, NDArray


def reaches(scores: ArrayLike, thresholds: ArrayLike) -> NDArray[np.bool_]:
    """Return which scores are at or above their threshold: prediction, reports, pages and evaluation all cut by this.

    Args:
        scores: (N,).
        thresholds: one for all, or (N,).
    """
    return np.asarray(np.asarray(scores) >= np.asarray(thresholds))


def in_single_precision(thresholds: ArrayLike) -> NDArray[np.float32]:
    """Return the lowest float32 at or above each threshold, and above 0: a score of 0 is no finding.

    A float32 score reaches the result exactly when its value reaches the threshold itself, so that a network's own
    scores and those read back from a file are cut alike.
    """
    exact = np.asarray(thresholds, dtype=np.float64)
    rounded = exact.astype(np.float32)
    raised = np.where(rounded < exact, np.nextafter(rounded, np.float32(np.inf)), rounded)
    return np.maximum(raised, np.finfo(np.float32).tiny).astype(np.float32)


def beyond(thresholds: ArrayLike) -> NDArray[np.float32]:
    """Return the lowest float32 above each threshold: what reaches it exceeds the threshold, as mmdet asks."""
    return np.nextafter(np.asarray(thresholds, dtype=np.float32), np.float32(np.inf))


def parse_class_thresholds(options: Iterable[str]) -> dict[str, float]:
    """Return score thresholds by class from texts as a command line or a configuration gives them.

    Args:
        options: ``CLASS=SCORE``, or a TOML file of such lines with the class in quotes; later ones take precedence.

    Raises:
        UsageError: a text or file of another form.
    """
    thresholds: dict[str, float] = {}
    for option in options:
        is_file = "=" not in option and option.endswith(".toml")
        if is_file:
            rows = read_toml(Path(option))
        else:
            name, _, value = option.rpartition("=")
            rows = {name: value}
        for name, value in rows.items():
            try:
                thresholds[name] = float(value)
            except (TypeError, ValueError):
                thresholds[name] = math.nan
            if not name or isinstance(value, bool) or not 0 <= thresholds[name] <= 1:
                where = f"{option}, {name!r}: got {value!r}" if is_file else option
                raise UsageError(
                    f"--class-threshold {where}: expected CLASS=SCORE with a score in 0…1, such as ILD=0.2, or a TOML"
                    ' file of such lines, as in "Nodule/Mass" = 0.2.'
                )
    return thresholds


def printed_threshold(threshold: float, scores: ArrayLike) -> str:
    """Return a threshold rounded down to three decimals, or to as many more as it takes to cut alike.

    Args:
        threshold: what the scores are cut at.
        scores: (N,) all of them; no score that the threshold cuts off reaches the text.

    Example:
        >>> printed_threshold(0.30049, [0.9, 0.30049, 0.3002])
        '0.3004'
    """
    values = np.asarray(scores, dtype=np.float64)
    below = values[~reaches(values, threshold)].max(initial=-np.inf)
    exact = Decimal(repr(float(threshold)))
    for places in range(3, max(3, -int(exact.as_tuple().exponent)) + 1):
        text = f"{exact.quantize(Decimal(1).scaleb(-places), rounding=ROUND_FLOOR):f}"
        if float(text) > below:
            return text
    return repr(float(threshold))
