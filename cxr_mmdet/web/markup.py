"""HTML of a case: images with a clickable area per finding, the table of findings and the downloads."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING

import jinja2

from cxr_mmdet.drawing import class_style
from cxr_mmdet.web.exports import NAMES, formats_of
from cxr_mmdet.web.rendering import render_case
from cxr_mmdet.web.verdicts import Kind

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cxr_mmdet.structures.detections import Box
    from cxr_mmdet.web.cases import Case
    from cxr_mmdet.web.examples import Example
    from cxr_mmdet.web.rendering import Part
    from cxr_mmdet.web.room import ReadingRoom
    from cxr_mmdet.web.verdicts import Verdict

_WORDS = {
    Kind.agree: "agreed",
    Kind.absent: "nothing there",
    Kind.wrong_class: "is {}",
    Kind.wrong_box: "box redrawn",
    Kind.missed: "missed by the model",
}


@dataclass(frozen=True)
class _Place:
    """A rectangle on the image, in percent."""

    left: float
    top: float
    width: float
    height: float


def viewer_html(case: Case | None, selected: str | None) -> str:
    """Return the two images; without a case, an invitation to upload."""
    if case is None:
        return _template("viewer.html").render(images=None)
    images = render_case(case)
    part = images.part
    hits = [(finding, place) for finding in case.findings() if (place := _place(finding.box_xyxy, part))]
    # The smallest lies on top, or it could not be reached where a larger one covers it.
    hits.sort(key=lambda hit: -hit[1].width * hit[1].height)
    marks = [
        (verdict, place)
        for verdict in case.reading.said
        if verdict.kind in (Kind.wrong_box, Kind.missed) and (place := _place(verdict.box_xyxy, part))
    ]
    return _template("viewer.html").render(
        images=images,
        original=_data_url(images.original),
        overlay=_data_url(images.overlay),
        hits=hits,
        marks=marks,
        selected=selected,
        zoom=case.look.zoom,
        name=case.name,
    )


def findings_html(case: Case | None, selected: str | None) -> str:
    """Return the table of findings and of missed ones."""
    if case is None:
        return ""
    names = case.candidates.model.class_names
    rows = [
        {
            "finding": finding,
            "color": class_style(names.index(finding.class_name)).css_color,
            "verdict": _words(case.reading.verdicts.get(finding.key)),
            "kind": getattr(case.reading.verdicts.get(finding.key), "kind", Kind.missed).name,
        }
        for finding in case.findings()
    ]
    return _template("findings.html").render(
        rows=rows, missed=case.reading.missed, selected=selected, finished=case.reading.finished
    )


def about_html(case: Case | None, room: ReadingRoom) -> str:
    """Return the facts of the radiograph and of its prediction."""
    if case is None:
        return ""
    return _template("about.html").render(case=case, radiograph=case.decoded.radiograph, room=room)


def downloads_html(case: Case | None) -> str:
    """Return the links to the downloads of a case."""
    if case is None:
        return ""
    links = [(f"download/{case.token}/{kind.value}", NAMES[kind][2], kind.value) for kind in formats_of(case)]
    return _template("downloads.html").render(links=links, dicom=case.decoded.radiograph.header is not None)


def examples_html(examples: Sequence[Example]) -> str:
    """Return a button with a thumbnail for each example."""
    return _template("examples.html").render(examples=examples)


def header_html(room: ReadingRoom) -> str:
    """Return the head of the page, with its intended use."""
    return _template("header.html").render(room=room)


def asset(name: str) -> str:
    """Return a style sheet or script of ours."""
    return (files("cxr_mmdet.web") / "assets" / name).read_text(encoding="utf-8")


def _words(verdict: Verdict | None) -> str:
    return "" if verdict is None else _WORDS[verdict.kind].format(verdict.class_name)


def _place(box_xyxy: Box, part: Part) -> _Place | None:
    """Return the place of a box in the visible part; None where no part of it is visible."""
    height, width = part.size_hw
    left, right = (min(max(side - part.left, 0.0), width) for side in box_xyxy[::2])
    top, bottom = (min(max(side - part.top, 0.0), height) for side in box_xyxy[1::2])
    if right <= left or bottom <= top:
        return None
    percent = (100 * left / width, 100 * top / height, 100 * (right - left) / width, 100 * (bottom - top) / height)
    return _Place(*(round(value, 3) for value in percent))


def _data_url(jpeg: bytes) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()


@cache
def _template(name: str) -> jinja2.Template:
    loader = jinja2.PackageLoader("cxr_mmdet.web", "assets")
    environment = jinja2.Environment(
        loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    return environment.get_template(name)
