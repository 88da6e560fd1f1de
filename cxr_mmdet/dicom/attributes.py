"""Attributes of files that do not keep to the standard: what cannot be read counts as not there."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydicom import Dataset


def value_of(dataset: Dataset, keyword: str) -> Any:
    """Return the value of an attribute, or None where it is absent, empty or unreadable."""
    try:
        value = dataset.get(keyword)
    # pydicom converts a value when it is first asked for: a damaged one raises here, from ValueError to
    # NotImplementedError for a VR that does not exist.
    except Exception:
        return None
    return None if value == "" else value


def text_of(dataset: Dataset, keyword: str) -> str:
    """Return an attribute as text without blanks around it; empty where there is none."""
    value = value_of(dataset, keyword)
    return "" if value is None else str(value).strip()


def code_of(dataset: Dataset, keyword: str) -> str:
    """Return a code string in capitals without blanks around it, as PS3.5 6.2 has it; empty where there is none."""
    return text_of(dataset, keyword).upper()


def numbers(dataset: Dataset, keyword: str) -> list[float]:
    """Return the finite numbers of an attribute; one that is absent, empty or no number gives none."""
    value = value_of(dataset, keyword)
    if value is None:
        return []
    try:
        found = [float(item) for item in ([value] if isinstance(value, (int, float, str)) else value)]
    except (TypeError, ValueError, OverflowError):
        return []
    return found if all(math.isfinite(number) for number in found) else []


def strings(dataset: Dataset, keyword: str) -> list[str]:
    """Return the texts of an attribute; one that is absent gives none."""
    value = value_of(dataset, keyword)
    if value is None:
        return []
    return [value] if isinstance(value, str) else [str(item) for item in value]


def items(dataset: Dataset, keyword: str) -> list[Dataset]:
    """Return the items of a sequence; none where it is absent, empty or not a sequence."""
    from pydicom.sequence import Sequence

    value = value_of(dataset, keyword)
    return list(value) if isinstance(value, Sequence) else []


def frame_count(dataset: Dataset) -> int:
    """Return how many frames the image has; without a usable number it is one."""
    count = numbers(dataset, "NumberOfFrames")
    return max(1, int(count[0])) if count else 1


def one_line(text: str) -> str:
    """Return ``text`` fit for a message: one line, printable, not longer than 160 characters."""
    line = "".join(character if character.isprintable() else "?" for character in " ".join(text.split()))
    return line if len(line) <= 160 else f"{line[:157]}..."
