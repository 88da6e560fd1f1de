"""Attributes of files that do not keep to the standard: wrong types and counts read as "not there"."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydicom import Dataset


def numbers(dataset: Dataset, keyword: str) -> list[float]:
    """Return the finite numbers of an attribute; one that is absent, empty or no number gives none."""
    try:
        value = dataset.get(keyword)
        items = [] if value is None or value == "" else [value] if isinstance(value, (int, float, str)) else list(value)
        numbers = [float(item) for item in items]
    except (TypeError, ValueError):
        return []
    return numbers if all(math.isfinite(number) for number in numbers) else []


def strings(dataset: Dataset, keyword: str) -> list[str]:
    """Return the texts of an attribute; one that is absent gives none."""
    value = dataset.get(keyword)
    if value is None:
        return []
    return [value] if isinstance(value, str) else [str(item) for item in value]
