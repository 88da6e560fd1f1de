"""Actions of the page's visitors: from the page's values to the room and back."""

from __future__ import annotations

import html
import itertools
import math
import re
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import gradio as gr

from cxr_mmdet.dicom.viewing import Window
from cxr_mmdet.errors import CxrError
from cxr_mmdet.web import markup
from cxr_mmdet.web.auth import user_in
from cxr_mmdet.web.cases import Case, Filter, Look
from cxr_mmdet.web.rendering import MAX_ZOOM, visible_part
from cxr_mmdet.web.uploads import uploaded_file
from cxr_mmdet.web.verdicts import Kind, ReadingError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from cxr_mmdet.structures.detections import Box
    from cxr_mmdet.web.examples import Example
    from cxr_mmdet.web.page import Parts
    from cxr_mmdet.web.room import ReadingRoom

MAX_RENDERS = 4
"""Images rendered at once; each takes several times the memory of its radiograph while it lasts."""

_NUMBERS = itertools.count()

# Gradio looks at the actions' annotations while the page is built, so these exist then.
Session = dict[str, Any]
Changes = dict[Any, Any]


class Actions:
    """The page's actions; each returns what it changes, by part of the page.

    Args:
        room: behind the page.
        examples: offered on it.
        folder: that uploads come from.
    """

    parts: Parts

    def __init__(self, room: ReadingRoom, examples: Sequence[Example], folder: Path) -> None:
        self._room = room
        self._folder = folder
        self._examples = examples
        self._rendering = threading.Semaphore(MAX_RENDERS)

    def new_session(self) -> Session:
        """Return what is remembered of a visitor: the tokens of the cases, which is on display, what is chosen."""
        return {"tokens": [], "active": None, "selected": None}

    def forget(self, session: Session) -> None:
        """Drop a visitor's cases."""
        self._room.cases.drop(session["tokens"])

    def greet(self, request: gr.Request) -> Any:
        """Return the reader's name: who has logged in is not asked."""
        user = user_in(request.headers.get("authorization", ""))
        return gr.update(value=user, interactive=False) if user else gr.skip()

    def open_files(
        self, files: list[str] | None, session: Session, score: float, nms: float, classes: list[str]
    ) -> Changes:
        """Predict what was uploaded."""
        try:
            cases, problems = self._room.open_files(
                [uploaded_file(file, self._folder) for file in files or []], self._filter(score, nms, classes)
            )
        except CxrError as error:
            return {self.parts.message: _message(str(error), error=True), self.parts.upload: None}
        return self._opened(session, cases, problems)

    def open_example(
        self, session: Session, score: float, nms: float, classes: list[str], event: gr.EventData
    ) -> Changes:
        """Predict a phantom."""
        try:
            (index,) = _numbers(event, "index", 1)
            example = self._examples[int(index)]
        except (ReadingError, IndexError):
            return {self.parts.message: _message("there is no such example.", error=True)}
        cases, problems = self._room.open_uploads([example.upload], self._filter(score, nms, classes))
        return self._opened(session, cases, problems)

    def choose_case(self, token: str, session: Session, score: float, nms: float, classes: list[str]) -> Changes:
        """Display another radiograph of the visitor's."""
        session = {**session, "active": token, "selected": None}
        return self._with_case(session, lambda case: self._display(session, case, self._filter(score, nms, classes)))

    def filter(self, session: Session, score: float, nms: float, classes: list[str]) -> Changes:
        """Apply thresholds and class switches."""

        def change(case: Case) -> Changes:
            case.filter = self._filter(score, nms, classes)
            return self._images(case, session) | self._table(case, session)

        return self._with_case(session, change)

    def window(self, session: Session, center: float, width: float, zoom: float, invert: bool) -> Changes:
        """Apply a window of the visitor's."""
        return self._look(session, window=Window(float(center), float(width)), zoom=float(zoom), invert=invert)

    def look(self, session: Session, center: float, width: float, zoom: float, invert: bool) -> Changes:
        """Apply zoom and inversion; the window stays, which is the file's own until another is chosen."""
        return self._look(session, zoom=float(zoom), invert=invert)

    def pan(self, session: Session, event: gr.EventData) -> Changes:
        """Move what is shown, by shares of it."""

        def change(case: Case) -> Changes:
            part = visible_part(case.size_hw, case.look)
            height, width = case.size_hw
            right, down = _numbers(event, "by", 2)
            x = ((part.left + part.right) / 2 + right * (part.right - part.left)) / width
            y = ((part.top + part.bottom) / 2 + down * (part.bottom - part.top)) / height
            case.look = replace(case.look, center=(min(max(x, 0.0), 1.0), min(max(y, 0.0), 1.0)))
            return self._images(case, session)

        return self._with_case(session, change)

    def zoom_by(self, session: Session, event: gr.EventData) -> Changes:
        """Zoom in or out from the keyboard."""

        def change(case: Case) -> Changes:
            (factor,) = _numbers(event, "factor", 1)
            zoom = round(min(max(case.look.zoom * factor, 1.0), MAX_ZOOM), 2)
            case.look = replace(case.look, zoom=zoom)
            return {self.parts.zoom: zoom} | self._images(case, session)

        return self._with_case(session, change)

    def reset(self, session: Session) -> Changes:
        """Show all of the radiograph as its file asks."""

        def change(case: Case) -> Changes:
            case.look = Look()
            return self._controls(case) | self._images(case, session)

        return self._with_case(session, change)

    def choose_finding(self, session: Session, event: gr.EventData) -> Changes:
        """Remember which finding a verdict is about; the page has marked it already."""
        return {self.parts.session: {**session, "selected": str(_value(event, "key"))}}

    def draw(self, session: Session, event: gr.EventData) -> Changes:
        """Write down the box that was drawn over what is shown."""

        def change(case: Case) -> Changes:
            part = visible_part(case.size_hw, case.look)
            height, width = part.size_hw
            box = _numbers(event, "box", 4)
            xs = sorted(part.left + x * width for x in box[::2])
            ys = sorted(part.top + y * height for y in box[1::2])
            return {self.parts.box: f"{xs[0]:.1f}, {ys[0]:.1f}, {xs[1]:.1f}, {ys[1]:.1f}"}

        return self._with_case(session, change)

    def judge(
        self, kind: Kind, session: Session, reader: str, label: str | None, box: str, request: gr.Request
    ) -> Changes:
        """Take down a verdict, and go on to the next finding without one."""

        def change(case: Case) -> Changes:
            named = list(case.findings())
            finding = next((each for each in named if each.key == session["selected"]), None)
            self._room.judge(
                case, _reader(reader, request), kind, None if kind is Kind.missed else finding,
                class_name=label, box=parse_box(box),
            )  # fmt: skip
            waiting = [each.key for each in named if each.key not in case.reading.verdicts]
            selected = next(iter(waiting), None) if kind is not Kind.missed else session["selected"]
            now = {**session, "selected": selected}
            changes = {self.parts.session: now, self.parts.box: "", self.parts.label: None}
            return changes | self._said(case, now, "")

        return self._with_case(session, change)

    def take_back(self, session: Session, reader: str, label: str | None, box: str, request: gr.Request) -> Changes:
        """Forget the verdict on the chosen finding, or else the last one."""

        def change(case: Case) -> Changes:
            forgotten = self._room.take_back(case, _reader(reader, request), session["selected"])
            now = session
            if forgotten is not None and forgotten.finding_key is not None:
                now = {**session, "selected": forgotten.finding_key}
            return {self.parts.session: now} | self._said(case, now, "")

        return self._with_case(session, change)

    def finish(self, session: Session, reader: str, label: str | None, box: str, request: gr.Request) -> Changes:
        """Close the reading."""

        def change(case: Case) -> Changes:
            self._room.finish(case, _reader(reader, request))
            kept = "kept in the store." if self._room.store else "part of the JSON download; no store is configured."
            return self._said(case, session, f"Reading finished: it is {kept}")

        return self._with_case(session, change)

    def _filter(self, score: float, nms: float, classes: Sequence[str]) -> Filter:
        hidden = frozenset(self._room.class_names) - frozenset(classes)
        return Filter(float(score), float(nms), hidden)

    def _with_case(self, session: Session, change: Any) -> Changes:
        """Return what ``change`` says of the case on display, or why there is none."""
        try:
            return {self.parts.message: ""} | change(self._room.cases.get(session["active"]))
        except CxrError as error:
            return {self.parts.message: _message(str(error), error=True)}

    def _opened(self, session: Session, cases: Sequence[Case], problems: Sequence[str]) -> Changes:
        changes: Changes = {self.parts.message: _message("\n".join(problems), error=True), self.parts.upload: None}
        if not cases:
            return changes
        tokens = [*session["tokens"], *(case.token for case in cases)]
        session = {"tokens": tokens, "active": cases[0].token, "selected": None}
        held = [case for token in tokens if (case := self._room.cases.find(token)) is not None]
        chooser = gr.update(
            choices=[(case.name, case.token) for case in held], value=cases[0].token, visible=len(held) > 1
        )
        return changes | {self.parts.chooser: chooser} | self._display(session, cases[0], cases[0].filter)

    def _display(self, session: Session, case: Case, shown: Filter) -> Changes:
        case.filter = shown
        session["selected"] = next((each.key for each in case.findings()), None)
        changes = {
            self.parts.session: session,
            self.parts.work: gr.update(visible=True),
            self.parts.about: markup.about_html(case, self._room),
            self.parts.downloads: markup.downloads_html(case),
            self.parts.box: "",
        }
        return changes | self._controls(case) | self._images(case, session) | self._table(case, session)

    def _controls(self, case: Case) -> Changes:
        viewable, look = case.decoded.viewable, case.look
        low, high = viewable.value_range
        span = max(high - low, 1.0)
        window = look.window or viewable.start
        step = 1.0 if span > 50 else span / 256
        return {
            self.parts.center: gr.update(
                minimum=min(low, window.center), maximum=max(high, window.center), value=window.center, step=step
            ),
            self.parts.width: gr.update(
                minimum=min(1.0, window.width), maximum=max(1.5 * span, window.width), value=window.width, step=step
            ),
            self.parts.zoom: look.zoom,
            self.parts.invert: look.invert,
        }

    def _look(self, session: Session, **look: Any) -> Changes:
        def change(case: Case) -> Changes:
            case.look = replace(case.look, **look)
            return self._images(case, session)

        return self._with_case(session, change)

    def _images(self, case: Case, session: Session) -> Changes:
        with self._rendering:
            return {self.parts.viewer: markup.viewer_html(case, session["selected"])}

    def _table(self, case: Case, session: Session) -> Changes:
        return {self.parts.findings: markup.findings_html(case, session["selected"])}

    def _said(self, case: Case, session: Session, message: str) -> Changes:
        changes = {self.parts.message: _message(message, error=False)}
        return changes | self._images(case, session) | self._table(case, session)


def parse_box(text: str | None) -> Box | None:
    """Return four numbers separated by commas or blanks; None for nothing.

    Raises:
        ReadingError: something else.
    """
    if not (text or "").strip():
        return None
    parts = re.split(r"[,;\s]+", str(text).strip())
    try:
        x_min, y_min, x_max, y_max = (float(part) for part in parts)
    except ValueError:
        raise ReadingError("the box is four numbers, x_min, y_min, x_max, y_max, in pixels.") from None
    return x_min, y_min, x_max, y_max


def _value(event: gr.EventData, name: str) -> Any:
    """Return what an event holds under a name; None where a request that no page of ours made holds nothing."""
    try:
        return getattr(event, name)
    except (AttributeError, KeyError, TypeError):
        return None


def _numbers(event: gr.EventData, name: str, count: int) -> list[float]:
    """Return the finite numbers that an event holds under a name.

    Raises:
        ReadingError: it holds something else there, or another count of them.
    """
    value = _value(event, name)
    try:
        numbers = [float(each) for each in (value if isinstance(value, list) else [value])]
    except (TypeError, ValueError, OverflowError):
        numbers = []
    if len(numbers) != count or not all(map(math.isfinite, numbers)):
        raise ReadingError(f"the request's {name} must be {count} finite numbers.")
    return numbers


def _reader(typed: str, request: gr.Request) -> str:
    return user_in(request.headers.get("authorization", "")) or typed


def _message(text: str, *, error: bool) -> str:
    if not text:
        return ""
    kind, role = ("is-error", "alert") if error else ("", "status")
    # Numbered, so that a message that is said again is shown again after it was dismissed.
    shown = f'class="cxr-message {kind}" role="{role}" title="Dismiss" data-number="{next(_NUMBERS)}"'
    return f"<div {shown}>{html.escape(text)}</div>"
