"""Plurals in messages."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

import pytest

import cxr_mmdet
from cxr_mmdet import errors

PACKAGE = Path(cxr_mmdet.__file__).parent
NOUNS = "images?|findings|radiographs|boxes|detections|problems|readers|studies|images|patients|pairs|groups|regions"


def test_the_example_of_counted():
    assert doctest.testmod(errors).failed == 0


@pytest.mark.parametrize(
    ("number", "words", "expected"),
    [
        (1, ("box",), "1 box"),
        (2, ("class",), "2 classes"),
        (3, ("study",), "3 studies"),
        (2, ("day",), "2 days"),
        (1, ("group stands", "groups stand"), "1 group stands"),
        (1234, ("group stands", "groups stand"), "1,234 groups stand"),
    ],
)
def test_counted(number: int, words: tuple[str, ...], expected: str):
    assert errors.counted(number, *words) == expected


def test_no_message_puts_a_plural_behind_a_count_of_its_own():
    """Messages said "1 images" and "1 findings"."""
    pattern = re.compile(rf"(?<!of )\{{len\([^{{}}]*\)(?::,)?\}} (?:{NOUNS})\b")
    found = [
        f"{path.relative_to(PACKAGE)}:{number}: {line.strip()}"
        for path in sorted(PACKAGE.rglob("*.py"))
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if pattern.search(line)
    ]
    assert found == []
