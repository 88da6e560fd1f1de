"""Downloads: the findings that are shown as an image, JSON, CSV and DICOM objects."""

from __future__ import annotations

import io
import json
import re
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

import cv2

from cxr_mmdet.batch.outputs import CSV_COLUMNS, SCHEMA_VERSION, csv_rows
from cxr_mmdet.errors import UsageError
from cxr_mmdet.files import write_csv_rows
from cxr_mmdet.web.rendering import render_overlay

if TYPE_CHECKING:
    from collections.abc import Callable

    from pydicom import Dataset

    from cxr_mmdet.web.cases import Case


class Format(str, Enum):
    """Format of a download."""

    png = "png"
    json = "json"
    csv = "csv"
    sr = "sr"
    sc = "sc"
    pr = "pr"


@dataclass(frozen=True)
class Download:
    """A file to send: its name, its type and its content."""

    name: str
    media_type: str
    content: bytes


DICOM_OBJECTS = frozenset({Format.sr, Format.sc, Format.pr})
NAMES = {
    Format.png: ("overlay.png", "image/png", "PNG"),
    Format.json: ("findings.json", "application/json", "JSON"),
    Format.csv: ("findings.csv", "text/csv; charset=utf-8", "CSV"),
    Format.sr: ("sr.dcm", "application/dicom", "DICOM SR"),
    Format.sc: ("capture.dcm", "application/dicom", "Secondary Capture"),
    Format.pr: ("presentation.dcm", "application/dicom", "Presentation State"),
}
"""Suffix of the file name, media type, and name on the page."""


def formats_of(case: Case) -> list[Format]:
    """Return the formats of a case; DICOM objects need the patient and study that only DICOM files have."""
    missing: frozenset[Format] = frozenset()
    if case.decoded.radiograph.header is None:
        missing = DICOM_OBJECTS
    elif not case.decoded.radiograph.is_grey:
        missing = frozenset({Format.pr})
    return [kind for kind in Format if kind not in missing]


def export(case: Case, kind: Format) -> Download:
    """Return the findings that are shown as a file.

    Raises:
        DicomError, UsageError: a DICOM object was asked for and cannot be made.
    """
    end, media_type, title = NAMES[kind]
    if kind in DICOM_OBJECTS and case.decoded.radiograph.header is None:
        raise UsageError(f"{case.name}: is not a DICOM file, so there is no patient and study for a {title}.")
    stem = re.sub(r"[^\w.-]+", "_", case.image_id, flags=re.ASCII).strip("._") or "radiograph"
    return Download(f"{stem}-{end}", media_type, _WRITERS[kind](case))


def describe(case: Case) -> dict[str, object]:
    """Return the findings that are shown in the form of findings.json, with the verdicts."""
    shown = case.filter
    found = case.findings()
    verdicts = [
        {"verdict": each.kind.name, "class": each.class_name, "box_xyxy": list(each.box_xyxy)}
        for each in case.reading.said
    ]
    settings = {"score_threshold": shown.score, "nms_iou": shown.nms_iou, "hidden_classes": sorted(shown.hidden)}
    image = {"image_id": case.image_id, "source": case.name, **found.to_json(), "verdicts": verdicts}
    return {
        "schema_version": SCHEMA_VERSION,
        "labels": list(found.class_names),
        "settings": settings,
        "images": [image],
    }


def _png(case: Case) -> bytes:
    _, data = cv2.imencode(".png", cv2.cvtColor(render_overlay(case), cv2.COLOR_RGB2BGR))
    return bytes(data)


def _json(case: Case) -> bytes:
    text = json.dumps(describe(case), sort_keys=True, indent=1, allow_nan=False, ensure_ascii=False)
    return (text + "\n").encode()


def _csv(case: Case) -> bytes:
    file = io.StringIO(newline="")
    write_csv_rows(file, CSV_COLUMNS, csv_rows(case.image_id, case.name, case.findings()))
    return file.getvalue().encode()


def _report(case: Case) -> bytes:
    from cxr_mmdet.dicom.report import structured_report, to_bytes

    return to_bytes(structured_report(case.findings(), _header(case)))


def _capture(case: Case) -> bytes:
    from cxr_mmdet.dicom.report import secondary_capture, to_bytes

    return to_bytes(secondary_capture(render_overlay(case), case.findings(), _header(case)))


def _presentation(case: Case) -> bytes:
    from cxr_mmdet.dicom.report import presentation_state, to_bytes

    look = case.look
    return to_bytes(presentation_state(case.findings(), _header(case), window=look.window, invert=look.invert))


def _header(case: Case) -> Dataset:
    assert case.decoded.radiograph.header is not None
    return case.decoded.radiograph.header


_WRITERS: dict[Format, Callable[[Case], bytes]] = {
    Format.png: _png,
    Format.json: _json,
    Format.csv: _csv,
    Format.sr: _report,
    Format.sc: _capture,
    Format.pr: _presentation,
}
