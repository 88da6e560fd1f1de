"""Test-time augmentation: the same radiograph in several sizes and mirrored, the findings fused."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

_SIDE = re.compile(r"\b(left|right)\b", re.IGNORECASE)
_OTHER_SIDE = {"left": "right", "right": "left", "Left": "Right", "Right": "Left", "LEFT": "RIGHT", "RIGHT": "LEFT"}


@dataclass(frozen=True)
class View:
    """One look at a radiograph: the input's size as a multiple of the usual one, and whether it is mirrored."""

    scale: float = 1.0
    flip: bool = False


def make_views(scales: Sequence[float] = (1.0,), *, flip: bool = False) -> tuple[View, ...]:
    """Return every combination of the scales with plain and, if asked for, mirrored."""
    return tuple(View(scale, mirrored) for mirrored, scale in itertools.product((False, True)[: 1 + flip], scales))


def mirrored_labels(class_names: Sequence[str]) -> NDArray[np.int64]:
    """Return for each class the one its mirror image belongs to: "Left lung" for "Right lung", itself for most."""
    index = {name: label for label, name in enumerate(class_names)}
    swapped = [_SIDE.sub(lambda match: _OTHER_SIDE.get(match[0], match[0]), name) for name in class_names]
    return np.array([index.get(name, label) for label, name in enumerate(swapped)], dtype=np.int64)
