"""Radiographs on display with their findings, view and verdicts; the oldest are dropped when memory runs out."""

from __future__ import annotations

import math
import secrets
import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cxr_mmdet.errors import CxrError
from cxr_mmdet.inference.predictor import Thresholds
from cxr_mmdet.structures.enums import DEFAULT_SCORE_THRESHOLD
from cxr_mmdet.structures.radiograph_files import image_id_of
from cxr_mmdet.web.verdicts import Reading

if TYPE_CHECKING:
    from cxr_mmdet.dicom.viewing import Window
    from cxr_mmdet.inference.candidates import StoredCandidates
    from cxr_mmdet.structures.detections import Findings
    from cxr_mmdet.web.decoding import Decoded


class CaseGoneError(CxrError):
    """A radiograph that is no longer held."""


@dataclass(frozen=True)
class Filter:
    """Choice of the findings that are shown.

    Attributes:
        score: those that reach it.
        nms_iou: overlap above which the weaker of two findings of a class goes.
        hidden: classes that are switched off.
    """

    score: float = DEFAULT_SCORE_THRESHOLD
    nms_iou: float = 0.5
    hidden: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Look:
    """Settings of the view of a radiograph.

    Attributes:
        window: None is the file's own view.
        invert: black and white swapped.
        zoom: 1 shows all of it.
        center: of what is shown, as shares of width and height.
    """

    window: Window | None = None
    invert: bool = False
    zoom: float = 1.0
    center: tuple[float, float] = (0.5, 0.5)


@dataclass(eq=False)
class Case:
    """One radiograph of one visitor.

    Attributes:
        name: the file's.
        decoded: its pixels and attributes.
        candidates: all that the network saw.
        seconds: that decoding and the network took.
        filter: which findings are shown.
        look: how it is shown.
        reading: the verdicts so far.
        token: names it, and cannot be guessed.
        prediction_id: of its row in the store, if there is one.
        image_id: by default the one that the name gives.
    """

    name: str
    decoded: Decoded = field(repr=False)
    candidates: StoredCandidates = field(repr=False)
    seconds: tuple[float, float]
    filter: Filter = field(default_factory=Filter)
    look: Look = field(default_factory=Look)
    reading: Reading = field(default_factory=Reading)
    token: str = field(default_factory=lambda: secrets.token_urlsafe(24))
    prediction_id: int | None = None
    image_id: str = ""

    def __post_init__(self) -> None:
        self.image_id = self.image_id or image_id_of(self.name)

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.decoded.radiograph.size_hw

    @property
    def nbytes(self) -> int:
        """Memory it takes, nearly all of it pixels."""
        return self.decoded.nbytes + self.candidates.nbytes

    def findings(self, *, min_score: float | None = None) -> Findings:
        """Return the findings of the classes that are shown, from ``min_score`` on, by default the filter's."""
        score = self.filter.score if min_score is None else min_score
        found = self.candidates.findings(Thresholds(score, self.filter.nms_iou))
        if not self.filter.hidden:
            return found
        return found.filter({name: math.inf if name in self.filter.hidden else 0.0 for name in found.class_names})


class Cases:
    """The radiographs that are held; may be used from several threads at once.

    Args:
        most: how many.
        most_bytes: and how much memory they may take; the newest one is always kept.
    """

    def __init__(self, *, most: int = 128, most_bytes: int = 2 << 30) -> None:
        self._most = most
        self._most_bytes = most_bytes
        self._lock = threading.Lock()
        self._cases: OrderedDict[str, Case] = OrderedDict()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._cases)

    def add(self, case: Case) -> None:
        """Hold a case; those that were not used for longest go where there is no room."""
        with self._lock:
            self._cases[case.token] = case
            self._bytes += case.nbytes
            while len(self._cases) > 1 and (len(self._cases) > self._most or self._bytes > self._most_bytes):
                _, gone = self._cases.popitem(last=False)
                self._bytes -= gone.nbytes

    def get(self, token: str | None) -> Case:
        """Return a case.

        Raises:
            CaseGoneError: it is not held, or no longer.
        """
        with self._lock:
            case = self._cases.get(token or "")
            if case is None:
                raise CaseGoneError("this radiograph is no longer held; upload it again.")
            self._cases.move_to_end(case.token)
            return case

    def find(self, token: str) -> Case | None:
        """Return a case, or None when it is not held; using it is something else."""
        return self._cases.get(token)

    def drop(self, tokens: list[str]) -> None:
        """Forget cases."""
        with self._lock:
            for token in tokens:
                gone = self._cases.pop(token, None)
                if gone is not None:
                    self._bytes -= gone.nbytes
