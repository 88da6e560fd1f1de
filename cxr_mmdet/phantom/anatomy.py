"""The outlines of one patient's chest in one view: lungs, diaphragm, heart, aorta, airways, body.

Millimetres from the carina, x towards the image's right. Shapes are an adult's, measured by eye on frontal radiographs;
the patient's build, the breath and the turn of the body move them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cxr_mmdet.phantom.shapes import ellipse, mirror, smooth_curve

if TYPE_CHECKING:
    from cxr_mmdet.phantom.patient import Patient, Positioning
    from cxr_mmdet.phantom.shapes import Points

RIGHT, LEFT = -1, 1
"""The patient's sides; the sign of x."""

CAGE_HALF_WIDTH = 139.0

# The outer wall of a lung from the mediastinum over the apex to the costophrenic angle, x counted from the midline.
_LUNG_WALL = [
    (10, -66), (15, -88), (27, -105), (44, -112), (62, -105), (81, -86), (98, -58), (112, -22),
    (123, 18), (131, 58), (136, 98), (138, 140), (139, 180), (139, 240),
]  # fmt: skip

# The diaphragm's course: x from the midline, share of the dome's height above the costophrenic angle.
_DOME = [
    (-12, 0.70), (12, 0.76), (40, 0.94), (66, 1.0), (90, 0.91), (112, 0.66), (127, 0.36), (135, 0.06), (139, -0.30),
    (160, -0.40), (320, -0.40),
]  # fmt: skip


@dataclass(frozen=True)
class Anatomy:
    """Outlines in millimetres; pairs are (right, left) of the patient.

    Attributes:
        lungs: closed outlines; they reach below the diaphragm and behind the mediastinum, which hide them.
        diaphragm: open curves from the midline outwards.
        heart: closed outline.
        heart_box: xyxy of the heart's visible part, in the upright patient.
        knob: closed outline of the aortic knob.
        knob_radius: its size.
        vessels: closed outlines of the great vessels and the core of the mediastinum.
        trachea: path of the windpipe.
        bronchi: paths of the main bronchi.
        body: closed outline of trunk and neck.
        arms: paths of the upper arms.
        arm_width: their thickness.
        hila: where the vessels spread from.
        scale: (x, y) build factors.
        sway: how far a point ``depth`` in front of the detector's mid-plane moves to the right, per millimetre.
    """

    lungs: tuple[Points, Points]
    diaphragm: tuple[Points, Points]
    heart: Points
    heart_box: tuple[float, float, float, float]
    knob: Points
    knob_radius: float
    vessels: tuple[Points, ...]
    trachea: Points
    bronchi: tuple[Points, Points]
    body: Points
    arms: tuple[Points, Points]
    arm_width: float
    hila: tuple[tuple[float, float], tuple[float, float]]
    scale: tuple[float, float]
    sway: float

    def turned(self, x: float, depth: float) -> float:
        """Return x of a point that lies ``depth`` millimetres in front of the chest's middle, after the body's turn."""
        return x + self.sway * depth

    def wall_x(self, side: int, y: float) -> float:
        """Return x of the lung's outer wall at this height (below the apex)."""
        wall = np.array(_LUNG_WALL[4:], dtype=np.float64)
        return side * float(np.interp(y / self.scale[1], wall[:, 1], wall[:, 0])) * self.scale[0]

    def diaphragm_y(self, side: int, x: float) -> float:
        """Return y of the diaphragm at this x."""
        curve = self.diaphragm[_index(side)]
        order = np.argsort(curve[:, 0])
        return float(np.interp(x, curve[order, 0], curve[order, 1]))


def build_anatomy(
    patient: Patient, view: Positioning, *, heart_ratio: float | None = None, knob_radius: float | None = None
) -> Anatomy:
    """Return the outlines of this patient in this view.

    Args:
        patient: the build.
        view: breath and turn.
        heart_ratio: heart by chest width, when not the patient's healthy one.
        knob_radius: millimetres, when not the patient's healthy one.
    """
    scale = np.array([patient.scale_x, patient.scale_y])
    sway = math.sin(math.radians(view.rotation))
    angle_y = 128.0 + 11.0 * view.inspiration
    dome = patient.dome - 3 * view.inspiration
    ratio = patient.heart_ratio if heart_ratio is None else heart_ratio
    radius = patient.knob_radius if knob_radius is None else knob_radius
    floor = angle_y - 0.72 * dome
    heart = _shifted(_heart(ratio, floor, wide=view.projection == "AP"), sway * 45) * scale
    knob_at = (17 + 0.28 * radius + sway * 10, -40 - 0.45 * radius)
    wall = smooth_curve(_LUNG_WALL)
    lung = np.vstack([wall, [(6, 240), (6, -60)]])
    return Anatomy(
        lungs=(mirror(lung) * scale, lung * scale),
        diaphragm=(_dome(RIGHT, angle_y, dome) * scale, _dome(LEFT, angle_y + patient.dome_step, dome) * scale),
        heart=heart,
        heart_box=_heart_box(heart, floor * scale[1]),
        knob=ellipse(knob_at, (radius, 1.12 * radius)) * scale,
        knob_radius=radius * float(scale.mean()),
        vessels=tuple(
            _shifted(outline, sway * depth) * scale for outline, depth in _great_vessels(patient.knob_radius)
        ),
        trachea=_shifted(smooth_curve([(1, -230), (0, -150), (-2, -90), (-5, -45), (-1, 0)]), sway * 5) * scale,
        bronchi=(
            smooth_curve([(-2, -3), (-13, 12), (-30, 34)]) * scale,
            smooth_curve([(0, -3), (16, 11), (42, 26)]) * scale,
        ),
        body=_body(patient) * scale,
        arms=(_arm(patient, view, RIGHT) * scale, _arm(patient, view, LEFT) * scale),
        arm_width=2 * _arm_half(patient) * patient.scale_x,
        hila=((-34 * scale[0] + sway * 5, 10 * scale[1]), (36 * scale[0] + sway * 5, -2 * scale[1])),
        scale=(patient.scale_x, patient.scale_y),
        sway=sway,
    )


def arm_distance(patient: Patient, view: Positioning) -> float:
    """Return how far from the midline the upper arm hangs at the flank, before the scale."""
    return CAGE_HALF_WIDTH + patient.wall / patient.scale_x + _arm_half(patient) + 6 + 40 * (1 - view.arms)


def _shifted(points: Points, x: float) -> Points:
    return points + np.array([x, 0.0])


def _arm_half(patient: Patient) -> float:
    return 28 + 0.5 * patient.wall


def _index(side: int) -> int:
    return 0 if side == RIGHT else 1


def _dome(side: int, angle_y: float, height: float) -> Points:
    return smooth_curve([(side * x, angle_y - share * height) for x, share in _DOME])


def _heart(ratio: float, floor: float, *, wide: bool) -> Points:
    width = ratio * 2 * CAGE_HALF_WIDTH
    right, left = 0.34 * width, 0.66 * width
    top = -24.0
    height = floor + 8 - top
    apex = 0.84 if wide else 0.87
    outline = [
        (12, 0.0), (-16, 0.03), (-24, 0.18), (-0.74 * right, 0.36), (-0.96 * right, 0.56), (-right, 0.70),
        (-0.93 * right, 0.86), (-0.66 * right, 0.98), (-6, 1.04), (0.42 * left, 1.10), (0.76 * left, 1.10),
        (0.96 * left, 0.99), (left, apex), (0.94 * left, 0.72), (0.79 * left, 0.53), (0.60 * left, 0.36),
        (0.47 * left, 0.22), (32, 0.08), (24, 0.01),
    ]  # fmt: skip
    return smooth_curve([(x, top + share * height) for x, share in outline], closed=True)


def _heart_box(heart: Points, floor: float) -> tuple[float, float, float, float]:
    """Return the box of the heart from the left atrium's level, where its borders part from the great vessels."""
    top = heart[:, 1].min()
    bottom = max(floor, heart[np.argmax(heart[:, 0]), 1]) + 5
    return float(heart[:, 0].min()), float(top + 0.12 * (bottom - top)), float(heart[:, 0].max()), float(bottom)


def _great_vessels(knob_radius: float) -> list[tuple[Points, float]]:
    """Return (outline, depth) of the mediastinum's core with the upper vessels, and of the descending aorta."""
    core = smooth_curve([
        (-17, -230), (-19, -120), (-22, -92), (-26, -64), (-28, -34), (-27, -6), (-24, 30), (-20, 80), (-19, 260),
        (17, 260), (18, 80), (22, 20), (25, -20), (24, -50), (24, -76), (21, -100), (18, -125), (16, -230),
    ])  # fmt: skip
    edge = 17 + 0.9 * knob_radius
    aorta = smooth_curve(
        [(4, -50), (edge, -46), (edge + 1, -10), (edge - 2, 30), (edge - 6, 80), (16, 140), (14, 260), (0, 260)]
    )
    return [(core, 0.0), (aorta, -35.0)]


def _body(patient: Patient) -> Points:
    flank = CAGE_HALF_WIDTH + patient.wall / patient.scale_x
    neck = 48 + 0.35 * patient.wall
    slope = 6 + 0.25 * patient.wall
    half = [
        (neck, -260), (neck, -180), (neck + 6, -158), (neck + 26, -139 - 0.3 * slope), (110, -123 - 0.5 * slope),
        (150, -110 - slope), (176, -92), (max(187, flank + 7), -60), (max(174, flank + 4), -25), (flank + 2, 5),
        (flank, 40), (flank - 1, 90), (flank - 3, 150), (flank - 5, 300),
    ]  # fmt: skip
    side = smooth_curve(half)
    return np.vstack([side, mirror(side)[::-1]])


def _arm(patient: Patient, view: Positioning, side: int) -> Points:
    """Return the upper arm's path: beside the chest, or lifted away so that only the shoulder stays in the field."""
    away = arm_distance(patient, view)
    return smooth_curve([(158, -66), (176, -44), (away - 13, 40), (away, 140), (away + 6, 300)]) * [side, 1]
