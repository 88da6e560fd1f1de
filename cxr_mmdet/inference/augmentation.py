"""Test-time augmentation: the same radiograph in several sizes and mirrored, the findings fused."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True)
class View:
    """One look at a radiograph: the input's size as a multiple of the usual one, and whether it is mirrored."""

    scale: float = 1.0
    flip: bool = False


def make_views(scales: Sequence[float] = (1.0,), *, flip: bool = False) -> tuple[View, ...]:
    """Return every combination of the scales with plain and, if asked for, mirrored."""
    return tuple(View(scale, mirrored) for mirrored, scale in itertools.product((False, True)[: 1 + flip], scales))
