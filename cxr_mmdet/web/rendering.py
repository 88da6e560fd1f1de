"""Images of a case: the visible part, windowed from full depth, without and with its findings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

from cxr_mmdet.drawing import draw_boxes
from cxr_mmdet.structures.boxes import scale, translate

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cxr_mmdet.structures.detections import Findings
    from cxr_mmdet.web.cases import Case, Look

VIEW_LONG_EDGE = 880
"""Pixels of an image on the page; more is seen by zooming, which renders again from the radiograph."""

MAX_ZOOM = 8.0


@dataclass(frozen=True)
class Part:
    """Visible pixels of a radiograph: first column and row, and those after the last."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def slices(self) -> tuple[slice, slice]:
        """Rows and columns."""
        return slice(self.top, self.bottom), slice(self.left, self.right)

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width."""
        return self.bottom - self.top, self.right - self.left


@dataclass(frozen=True)
class Images:
    """Images on the page as JPEG, and the part of the radiograph that they show."""

    original: bytes
    overlay: bytes
    part: Part
    size_hw: tuple[int, int]


def visible_part(size_hw: tuple[int, int], look: Look) -> Part:
    """Return the part that zoom and centre select; it never leaves the radiograph, so it may be off-centre."""
    height, width = size_hw
    zoom = min(max(look.zoom, 1.0), MAX_ZOOM)
    part_height, part_width = max(1, round(height / zoom)), max(1, round(width / zoom))
    left = min(max(round(look.center[0] * width - part_width / 2), 0), width - part_width)
    top = min(max(round(look.center[1] * height - part_height / 2), 0), height - part_height)
    return Part(left, top, left + part_width, top + part_height)


def render_case(case: Case) -> Images:
    """Return the two images of the visible part."""
    part = visible_part(case.size_hw, case.look)
    pixels = _at_size(_pixels(case, part), case.decoded.radiograph.pixel_aspect)
    findings = case.findings()
    overlay = _draw(findings, pixels, part, None if len(findings) else _caption(case))
    height, width = pixels.shape
    return Images(_jpeg(pixels), _jpeg(cv2.cvtColor(overlay, cv2.COLOR_RGB2BGR)), part, (height, width))


def render_overlay(case: Case) -> NDArray[np.uint8]:
    """Return the whole radiograph at full size as RGB, in the window that is shown, with the findings that are."""
    look = case.look
    pixels = case.decoded.viewable.render(look.window, invert=look.invert)
    return _all_findings(case).draw(pixels, min_score=case.filter.score)


def _caption(case: Case) -> str | None:
    """Return the caption of an image without findings; None where the classes that are shown have none at all."""
    findings = _all_findings(case)
    return findings.caption(case.filter.score) if len(findings) else None


def _all_findings(case: Case) -> Findings:
    """Return the findings of the classes that are shown, whatever their score."""
    return case.findings(min_score=case.candidates.floor)


def _pixels(case: Case, part: Part) -> NDArray[np.uint8]:
    return case.decoded.viewable.render(case.look.window, invert=case.look.invert, part=part.slices)


def _at_size(pixels: NDArray[np.uint8], pixel_aspect: float) -> NDArray[np.uint8]:
    height, width = pixels.shape
    square_height = height * pixel_aspect
    ratio = VIEW_LONG_EDGE / max(square_height, width)
    size_wh = max(1, round(width * ratio)), max(1, round(square_height * ratio))
    interpolation = cv2.INTER_AREA if ratio < 1 else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(pixels, size_wh, interpolation=interpolation), dtype=np.uint8)


def _draw(findings: Findings, pixels: NDArray[np.uint8], part: Part, caption: str | None) -> NDArray[np.uint8]:
    part_height, part_width = part.size_hw
    boxes = translate(findings.boxes_xyxy, -part.left, -part.top)
    seen = (boxes[:, 2] > 0) & (boxes[:, 3] > 0) & (boxes[:, 0] < part_width) & (boxes[:, 1] < part_height)
    height, width = pixels.shape
    boxes = scale(boxes[seen], width / part_width, height / part_height)
    shown = findings[seen]
    return draw_boxes(pixels, boxes, shown.labels, shown.scores, shown.class_names, caption=caption)


def _jpeg(image: NDArray[np.uint8]) -> bytes:
    # Full colour resolution: thin coloured lines on grey are all there is to see.
    options = [cv2.IMWRITE_JPEG_QUALITY, 92, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    _, data = cv2.imencode(".jpg", image, options)
    return bytes(data)
