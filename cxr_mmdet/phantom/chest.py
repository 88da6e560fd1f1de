"""The healthy chest as thickness of tissue: soft parts, lungs, bones, airways, vessels, laid over one another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cxr_mmdet.phantom.anatomy import LEFT, RIGHT
from cxr_mmdet.phantom.film import Exposure
from cxr_mmdet.phantom.lung_vessels import draw_lung_vessels
from cxr_mmdet.phantom.patient import Stream, generator
from cxr_mmdet.phantom.shapes import chord, ellipse, ribbon, smoothstep
from cxr_mmdet.phantom.skeleton import draw_skeleton

if TYPE_CHECKING:
    from cxr_mmdet.phantom.anatomy import Anatomy
    from cxr_mmdet.phantom.patient import Patient, Positioning
    from cxr_mmdet.phantom.shapes import Frame, Plane, Points

AIR_SHARE = 0.73
"""Share of air in the lung's volume in a held breath."""


@dataclass(frozen=True)
class Chest:
    """Layers of one patient in one view, as millimetres of water.

    Attributes:
        solid: everything but the lungs' markings and the air.
        lung: the lungs' depth along the ray, millimetres of lung, after heart and diaphragm took their part.
        inner: how deep a pixel lies inside the lungs' outer wall, millimetres.
        markings: the vessels and texture inside the lungs, millimetres of tissue.
        exposure: the tone curve's anchors.
    """

    solid: Plane
    lung: Plane
    inner: Plane
    markings: Plane
    exposure: Exposure


def build_chest(frame: Frame, seed: int, patient: Patient, view: Positioning, anatomy: Anatomy) -> Chest:
    """Return the layers; the same patient has the same markings in every image."""
    rng = generator(seed, Stream.TEXTURE, patient.number)
    # Soft parts without a sharp edge are drawn at half the resolution.
    half = frame.halved()
    trunk = _trunk(half, patient, anatomy, rng)
    front = _breasts(half, patient, anatomy, rng) if patient.female else _pectorals(half)
    soft = trunk + front - _abdominal_gas(half, patient, anatomy, rng)
    full, inner = _lung_depth(frame, patient, anatomy)
    lung = np.maximum(full - _occlusion(frame, patient, anatomy), 0)
    solid = frame.enlarged(soft)
    solid += draw_skeleton(frame, patient, view, anatomy)
    solid -= frame.enlarged(_airways(half, anatomy))
    vessels = draw_lung_vessels(frame, anatomy, rng) * np.float32(patient.vessel)
    markings = _markings(frame, lung, inner, vessels, rng)
    return Chest(solid, lung, inner, markings, _exposure(half, trunk, patient, anatomy))


def tissue(chest: Chest) -> Plane:
    """Return the whole chest's thickness, millimetres of water."""
    return chest.solid - np.float32(AIR_SHARE) * chest.lung + chest.markings


def _markings(frame: Frame, lung: Plane, inner: Plane, vessels: Plane, rng: np.random.Generator) -> Plane:
    """Return vessels and mottle within the lungs; a vessel replaces air, so it cannot be thicker than the lung."""
    room = np.maximum(lung * np.float32(AIR_SHARE), np.float32(1e-3))
    filled = -np.expm1(-vessels * smoothstep(inner, 3, 20) / room)
    filled *= room
    mottle = frame.enlarged(_coarse_mottle(frame.halved(), rng)) + np.float32(0.75) * frame.noise(rng, 1.7)
    return filled + mottle * smoothstep(lung, 0, 40)


def _coarse_mottle(frame: Frame, rng: np.random.Generator) -> Plane:
    """Return the shadows of the thousands of vessels below the detector's resolution."""
    return 0.95 * frame.noise(rng, 4.5) + 1.1 * frame.noise(rng, 14.0)


def _exposure(frame: Frame, trunk: Plane, patient: Patient, anatomy: Anatomy) -> Exposure:
    """Return what lies over the upper lungs and over the spine, were the lungs empty of anything but air."""
    x, y = frame.grid
    upper = (np.abs(np.abs(x) - 65) < 25) & (np.abs(y - 20) < 50)
    core = (np.abs(x) < 12) & (np.abs(y - 40) < 60)
    lung, _ = _lung_depth(frame, patient, anatomy)
    return Exposure(lung=float((trunk - AIR_SHARE * lung)[upper].mean()), core=float(trunk[core].mean()) + 8)


def _trunk(frame: Frame, patient: Patient, anatomy: Anatomy, rng: np.random.Generator) -> Plane:
    """Return the soft tissue of trunk, neck and arms; thinner towards the skin and in the neck."""
    y = frame.grid[1]
    depth = frame.depth(anatomy.body)
    radius = anatomy.scale[0] * 139 + patient.wall
    round_off = 0.55 * chord(depth, 20) / np.float32(40) + 0.45 * chord(depth, radius) / np.float32(2 * radius)
    height = np.float32(patient.depth) * (0.82 + 0.18 * smoothstep(y, -165, -50))
    trunk = round_off * height + 6 * smoothstep(depth, 0, 5)
    arm = frame.stroke(anatomy.arms, anatomy.arm_width, value=1, antialias=False)
    arms = chord(frame.depth_of(arm), anatomy.arm_width / 2)
    streaks = 1.6 * frame.noise(rng, 6.0) + 2.8 * frame.noise(rng, 22.0) + 3.2 * frame.noise(rng, 60.0)
    trunk = trunk + streaks * round_off
    return frame.blur(np.maximum(trunk, arms * np.float32(1.9)), 0.6)


def _lung_depth(frame: Frame, patient: Patient, anatomy: Anatomy) -> tuple[Plane, Plane]:
    inner = frame.depth(*anatomy.lungs)
    radius = 92.0
    full = chord(inner, radius) * np.float32(0.72 * patient.depth / (2 * radius))
    return frame.blur(full, 0.45), inner


def _occlusion(frame: Frame, patient: Patient, anatomy: Anatomy) -> Plane:
    """Return how much of the lungs' depth other organs take: heart, vessels, diaphragm."""
    thick = np.float32(patient.depth / 220)
    heart = chord(frame.depth(anatomy.heart), 52) * np.float32(1.02)
    knob = chord(frame.depth(anatomy.knob), anatomy.knob_radius) * np.float32(1.8)
    core, aorta = (frame.depth(outline) for outline in anatomy.vessels)
    middle = chord(core, 40) * 1.5
    descending = chord(aorta, 15) * 0.9
    below = frame.depth(*below_diaphragm(anatomy))
    total = np.maximum(np.maximum(heart, knob), middle) + descending + chord(below, 95) * np.float32(1.1)
    return frame.blur(total * thick, 0.45)


def below_diaphragm(anatomy: Anatomy) -> list[Points]:
    """Return the closed outlines of what lies below the right and the left dome."""
    return [
        np.vstack([curve, [(side * 320, 400), (0, 400), (0, curve[0, 1])]])
        for side, curve in zip((RIGHT, LEFT), anatomy.diaphragm, strict=True)
    ]


def _airways(frame: Frame, anatomy: Anatomy) -> Plane:
    outlines = [ribbon(anatomy.trachea, 8.6), *(ribbon(path, 6.0) for path in anatomy.bronchi)]
    return frame.blur(chord(frame.depth(*outlines), 8.6), 0.7) * np.float32(0.95)


def _pectorals(frame: Frame) -> Plane:
    """Return a man's chest muscles, millimetres of tissue."""
    x, y = frame.grid
    outwards = smoothstep(np.abs(x), 25, 60) * smoothstep(np.abs(x), 150, 105)
    return 7 * outwards * smoothstep(y, -70, -30) * smoothstep(y, 75, 30)


def _breasts(frame: Frame, patient: Patient, anatomy: Anatomy, rng: np.random.Generator) -> Plane:
    """Return a woman's breasts, millimetres of tissue: sharp below, melting into the chest wall above."""
    total = np.zeros(frame.size_hw, np.float32)
    size = 0.82 + patient.breast / 170
    drop = 78 + 0.5 * patient.breast + float(rng.normal(0, 4))
    for side in (RIGHT, LEFT):
        center = (side * (90 + 2 * rng.normal()) + anatomy.sway * 90, drop + 3 * rng.normal())
        outline = ellipse(center, (74 * size, 72 * size), side * -14)
        dome = chord(frame.depth(outline), 68 * size) / np.float32(136 * size)
        rising = smoothstep(frame.grid[1], center[1] - 75 * size, center[1] + 25)
        total += dome**0.75 * rising * np.float32(patient.breast)
    return frame.blur(total, 1.0)


def _abdominal_gas(frame: Frame, patient: Patient, anatomy: Anatomy, rng: np.random.Generator) -> Plane:
    """Return the air under the left diaphragm: the stomach's bubble with its fluid level."""
    if not patient.stomach:
        return np.zeros((1, 1), np.float32)
    x = 62 * anatomy.scale[0] + float(rng.normal(0, 6))
    top = anatomy.diaphragm_y(LEFT, x) + 14
    width, height = 34 * patient.stomach, 24 * patient.stomach
    depth = frame.depth(ellipse((x, top + height), (width, height), -8))
    level = smoothstep(frame.grid[1], top + 1.35 * height + 3, top + 1.35 * height - 2)
    return frame.blur(chord(depth, height) * level * np.float32(1.1), 1.2)
