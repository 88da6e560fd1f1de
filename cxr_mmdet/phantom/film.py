"""From thickness to image: attenuation, scatter, quantum noise, the console's processing, collimation and marker."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

from cxr_mmdet.phantom.shapes import smoothstep

if TYPE_CHECKING:
    from cxr_mmdet.phantom.patient import Positioning
    from cxr_mmdet.phantom.shapes import Frame, Plane

WATER_PER_MM = 0.0195
"""Attenuation of soft tissue at about 70 keV, 1/mm."""

VEIL = 0.008
"""Scattered light that lies evenly over the detector, by the unattenuated beam: it flattens what is dense."""

_DARKEST, _BRIGHTEST = -1.5, 2.5
"""Greys beyond these are black and white whatever the film."""


@dataclass(frozen=True)
class Exposure:
    """Exposure that the console derives from the healthy chest, so that a finding never changes the whole image.

    Attributes:
        lung: typical thickness of tissue over the lungs, millimetres of water.
        core: over the spine.
    """

    lung: float
    core: float


def develop(frame: Frame, water_mm: Plane, view: Positioning, exposure: Exposure, rng: np.random.Generator) -> Plane:
    """Return the image, 0 (black) … 1 (white), of this thickness of tissue.

    Args:
        frame: the image's frame.
        water_mm: tissue in the ray, as millimetres of water.
        view: dose, scatter and the look of the console.
        exposure: the anchors of the tone curve.
        rng: for the quantum noise.
    """
    primary = np.exp(water_mm * np.float32(-WATER_PER_MM))
    light = primary + np.float32(view.scatter) * frame.blur(np.minimum(primary, 0.3), 22.0)
    light += np.float32(VEIL)
    density = -np.log(light)
    photons = 110_000.0 * view.dose * frame.spacing**2
    noise = rng.standard_normal(water_mm.shape, dtype=np.float32)
    # An exact Poisson draw is indistinguishable at these counts and ten times slower.
    density += noise / np.sqrt(np.float32(photons) * light)
    density = cv2.GaussianBlur(density, (0, 0), max(0.35, 0.16 / frame.spacing))
    return _tone(frame, density, view, exposure)


def _tone(frame: Frame, density: Plane, view: Positioning, exposure: Exposure) -> Plane:
    """Return the displayed grey: coarse differences compressed, fine ones raised, then the film's S-shaped curve."""
    scatter = view.scatter
    dark = -np.log(np.exp(-exposure.lung * WATER_PER_MM) * (1 + 0.8 * scatter) + VEIL)
    bright = -np.log(np.exp(-exposure.core * WATER_PER_MM) * (1 + 2.2 * scatter) + VEIL)
    coarse = frame.blur(density, 13.0)
    fine = frame.blur(density, 3.0)
    middle = np.float32(0.5 * (dark + bright))
    shown = middle + 0.86 * (coarse - middle) + 1.12 * (fine - coarse) + np.float32(view.detail) * (density - fine)
    grey = 0.05 + 0.78 * (shown - np.float32(dark)) / np.float32(bright - dark)
    return _film_curve(grey, view.gamma)


def _film_curve(grey: Plane, gamma: float) -> Plane:
    """Return the grey bent softly into 0…1: straight in the middle, a toe and a shoulder at the ends."""
    level = np.linspace(_DARKEST, _BRIGHTEST, 1 << 16)
    toe = np.where(level < 0.12, 0.12 * np.exp((level - 0.12) / 0.12), level)
    shoulder = np.where(toe > 0.80, 1 - 0.20 * np.exp((0.80 - toe) / 0.20), toe)
    curve = np.power(np.clip(shoulder, 0, 1), gamma).astype(np.float32)
    steps = (grey - np.float32(_DARKEST)) * np.float32(((1 << 16) - 1) / (_BRIGHTEST - _DARKEST))
    return np.take(curve, steps.astype(np.int32), mode="clip")


def finish(image: Plane, view: Positioning) -> Plane:
    """Return the image with the unexposed border and the lead marker."""
    image = _collimate(image, view)
    return _mark(image, view) if view.marker else image


def _collimate(image: Plane, view: Positioning) -> Plane:
    height, width = image.shape
    left, top, right, bottom = (share * width for share in view.collimation)
    if not any(view.collimation):
        return image
    columns = np.arange(width, dtype=np.float32)[None, :]
    rows = np.arange(height, dtype=np.float32)[:, None]
    lean = np.float32(0.004 * view.tilt)
    soft = max(1.0, width / 500)
    inside = (
        (left, columns + lean * rows),
        (top, rows - lean * columns),
        (right, width - 1 - columns + lean * rows),
        (bottom, height - 1 - rows - lean * columns),
    )
    opened = np.full(image.shape, 0.97, np.float32)
    for border, distance in inside:
        if border:
            opened *= smoothstep(distance - np.float32(border), -soft, soft)
    return image * (opened + np.float32(0.03))


def _mark(image: Plane, view: Positioning) -> Plane:
    height, width = image.shape
    scale = width / 420
    thick = max(1, round(width / 190))
    (letter_w, letter_h), _ = cv2.getTextSize(view.marker, cv2.FONT_HERSHEY_SIMPLEX, scale, thick)
    x, y = round(view.marker_at[0] * width - letter_w / 2), round(view.marker_at[1] * height + letter_h / 2)
    ink = np.zeros(image.shape, np.uint8)
    cv2.putText(ink, view.marker, (x, y), cv2.FONT_HERSHEY_SIMPLEX, scale, 255, thick, cv2.LINE_AA)
    if view.framed:
        pad = round(0.45 * letter_h)
        corners = (x - pad, y - letter_h - pad), (x + letter_w + pad, y + pad)
        cv2.rectangle(ink, *corners, 200, max(1, thick // 2), cv2.LINE_AA)
    lead = ink.astype(np.float32) * np.float32(0.96 / 255)
    return np.maximum(image, lead)
