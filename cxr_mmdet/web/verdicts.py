"""Verdicts of a radiologist on a model's findings on one radiograph."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

from cxr_mmdet.errors import CxrError, counted
from cxr_mmdet.structures.boxes import as_boxes, clip_to_image

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from cxr_mmdet.structures.detections import Box, Finding


class ReadingError(CxrError):
    """A verdict that cannot be recorded; the message says what is missing."""


class Kind(str, Enum):
    """Kind of verdict on a finding; ``missed`` is the verdict on a place without a finding."""

    agree = "agree"
    absent = "nothing there"
    wrong_class = "wrong class"
    wrong_box = "wrong box"
    missed = "missed"


@dataclass(frozen=True)
class Verdict:
    """A reader's verdict.

    Attributes:
        kind: of the verdict.
        class_name: the correct class; for ``absent`` the model's.
        box_xyxy: the correct box, in pixels of the radiograph; for ``absent`` the model's.
        finding_key: key of the finding; None for ``missed``.
    """

    kind: Kind
    class_name: str
    box_xyxy: Box
    finding_key: str | None = None


@dataclass
class Reading:
    """The verdicts on one radiograph so far, in the order they were given."""

    said: list[Verdict] = field(default_factory=list)
    finished: bool = False

    @property
    def verdicts(self) -> dict[str, Verdict]:
        """The verdicts on findings, by the finding's key."""
        return {verdict.finding_key: verdict for verdict in self.said if verdict.finding_key is not None}

    @property
    def missed(self) -> list[Verdict]:
        """The verdicts on places without a finding."""
        return [verdict for verdict in self.said if verdict.finding_key is None]

    def judge(
        self, kind: Kind, finding: Finding | None, *, class_name: str | None, box: Box | None, size_hw: tuple[int, int]
    ) -> Verdict:
        """Record a verdict; a finding's later verdict replaces its earlier one.

        Args:
            kind: of the verdict.
            finding: the finding; None for ``missed``.
            class_name: for ``wrong_class`` and ``missed``; for ``wrong_box`` where the class is another, too.
            box: for ``wrong_box`` and ``missed``.
            size_hw: of the radiograph.

        Raises:
            ReadingError: something is missing, or the box lies outside the radiograph.
        """
        if kind is Kind.missed:
            if not class_name:
                raise ReadingError("choose the class that was missed first.")
            verdict = Verdict(kind, class_name, _checked(box, size_hw))
        else:
            verdict = _about(kind, finding, class_name, box, size_hw)
            self.said = [earlier for earlier in self.said if earlier.finding_key != verdict.finding_key]
        self.said.append(verdict)
        self.finished = False
        return verdict

    def take_back(self, key: str | None) -> Verdict | None:
        """Remove and return the verdict on a finding, or the last verdict where the finding has none."""
        if not self.said:
            return None
        forgotten = self.verdicts.get(key or "", self.said[-1])
        self.said = [verdict for verdict in self.said if verdict is not forgotten]
        self.finished = False
        return forgotten

    def finish(self, shown: Iterable[Finding]) -> None:
        """Finish the reading: classes without a box count as read and absent from now on.

        Raises:
            ReadingError: a finding that is shown has no verdict.
        """
        waiting = [finding for finding in shown if finding.key not in self.verdicts]
        if waiting:
            count = counted(len(waiting), "finding waits", "findings wait")
            raise ReadingError(f"{count} for a verdict, the first is {waiting[0].class_name}.")
        self.finished = True


def _about(
    kind: Kind, finding: Finding | None, class_name: str | None, box: Box | None, size_hw: tuple[int, int]
) -> Verdict:
    if finding is None:
        raise ReadingError("choose a finding first, in the table or in the image.")
    if kind is Kind.wrong_class:
        if not class_name or class_name == finding.class_name:
            raise ReadingError(f"choose the class that it is instead of {finding.class_name}.")
        return Verdict(kind, class_name, finding.box_xyxy, finding.key)
    if kind is Kind.wrong_box:
        return Verdict(kind, class_name or finding.class_name, _checked(box, size_hw), finding.key)
    return Verdict(kind, finding.class_name, finding.box_xyxy, finding.key)


def _checked(box: Sequence[float] | None, size_hw: tuple[int, int]) -> Box:
    if box is None:
        raise ReadingError("draw the box first: Draw, then drag over the image; or type its four numbers.")
    x_min, y_min, x_max, y_max = clip_to_image(as_boxes([box]), size_hw)[0].tolist()
    if x_max - x_min < 1 or y_max - y_min < 1:
        raise ReadingError("the box covers no pixel of the radiograph; draw it again.")
    return x_min, y_min, x_max, y_max
