"""Effect of an abnormality gate on box scores: one rule for mmdet and every backend, free of torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

from cxr_mmdet.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping


class ScoreMode(str, Enum):
    """Effect on box scores: unchanged, multiplied by a power of p_abnormal, or removed where it is low."""

    leave = "leave"
    multiply = "multiply"
    cut = "cut"


@dataclass(frozen=True)
class GateRule:
    """One factor an image for all of its boxes' scores.

    One factor keeps the order of an image's boxes. Suppression and every cap on their number go by that order alone, so
    they give the same before and after it; the score threshold does not, and acts on the product.

    Attributes:
        score_mode: see :class:`ScoreMode`.
        cut: p_abnormal below which ``ScoreMode.cut`` drops an image's boxes, 0…1.
        exponent: of p_abnormal, where ``ScoreMode.multiply`` multiplies; towards 0 scores change less.
    """

    score_mode: ScoreMode
    cut: float
    exponent: float = 1.0

    @classmethod
    def of(cls, score_mode: str, cut: float, exponent: float = 1.0) -> GateRule:
        """Return the rule that a config asks for.

        Raises:
            ConfigError: an unknown mode, a cut outside 0…1, or an exponent that is not above 0.
        """
        if score_mode not in ScoreMode.__members__:
            modes = ", ".join(ScoreMode.__members__)
            raise ConfigError(f"the gate's score_mode is {score_mode!r}; choose one of {modes}.")
        if not 0 <= cut <= 1:
            raise ConfigError(f"the gate's cut is {cut:g}; give a probability in 0…1.")
        if not 0 < exponent < math.inf:
            raise ConfigError(f"the gate's exponent is {exponent:g}; give a number above 0.")
        return cls(ScoreMode(score_mode), float(cut), float(exponent))

    def factor(self, p_abnormal: float) -> float:
        """Return what the box scores of an image are multiplied by; 0 means that it has no boxes."""
        if self.score_mode is ScoreMode.multiply:
            return float(p_abnormal**self.exponent)
        return 0.0 if self.score_mode is ScoreMode.cut and p_abnormal < self.cut else 1.0

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {"score_mode": self.score_mode.value, "cut": self.cut, "exponent": self.exponent}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> GateRule:
        """Return what :meth:`to_json` wrote.

        Raises:
            KeyError, TypeError, ValueError, ConfigError: something else.
        """
        exponent = float(value.get("exponent", 1.0))  # bundles of before it had none
        return cls.of(value["score_mode"], float(value["cut"]), exponent)
