"""The bones: ribs as curves in space, spine, clavicles, shoulder blades and upper arms, as millimetres of water."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

from cxr_mmdet.phantom.anatomy import LEFT, RIGHT, arm_distance
from cxr_mmdet.phantom.shapes import ellipse, looped, ribbon, smooth_curve, smoothstep

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from cxr_mmdet.phantom.anatomy import Anatomy
    from cxr_mmdet.phantom.patient import Patient, Positioning
    from cxr_mmdet.phantom.shapes import Frame, Mask, Plane, Points

# Of ribs 1…12 in an average adult: height of the head beside the spine, drop from back to front, and the angle round
# the trunk (degrees) where the bone ends and cartilage, which casts no shadow, begins.
_RIBS = (
    (-113, 34, 150), (-98, 54, 150), (-79, 68, 148), (-57, 80, 144), (-34, 90, 140), (-10, 98, 136),
    (15, 104, 131), (41, 106, 125), (68, 106, 116), (96, 116, 100), (124, 124, 74), (151, 150, 48),
)  # fmt: skip

_BLADE = [
    (158, -82), (150, -62), (141, -20), (130, 34), (121, 46), (112, 30), (103, -20), (98, -66), (112, -88), (138, -92),
]  # fmt: skip
_BLADE_BORDER = [(156, -74), (148, -54), (140, -16), (129, 34)]


@dataclass(frozen=True)
class _Rib:
    """One rib in the image plane: from the spine to where it turns at the side, and from there to the front."""

    back: Points
    front: Points
    half_width: float


def _ribs(patient: Patient, anatomy: Anatomy) -> list[_Rib]:
    """Return the 24 ribs."""
    return [_rib(patient, anatomy, side, i) for side in (RIGHT, LEFT) for i in range(len(_RIBS))]


def _rib(patient: Patient, anatomy: Anatomy, side: int, i: int) -> _Rib:
    head_y, drop, end = _RIBS[i]
    angle = np.radians(np.linspace(2, end, 56))
    fall = drop * patient.rib_slope * 0.625 * (1 - np.cos(angle))
    arch = (7.0 if i else 2.5) * np.sin(np.clip(angle / 1.1, 0, math.pi))
    y = (head_y + fall - arch) * anatomy.scale[1]
    outermost = min(int(np.argmin(np.abs(angle - math.pi / 2))), len(y) - 1)
    # The hoop hugs the lung where it turns forward; the floating ribs stay behind the trunk.
    half_width = min(abs(anatomy.wall_x(side, y[outermost])), 143 * anatomy.scale[0]) + 1.5 - max(0, i - 9) * 5
    reach = np.sin(angle) ** np.where(angle < math.pi / 2, 0.92, 0.80)
    x = 8 + (half_width - 8) * reach
    depth = -75 * np.cos(angle) * (half_width / 140)
    path = np.stack([side * x + anatomy.sway * depth, y], axis=1)
    turn = int(np.argmax(reach)) + 1
    width = (5.2 if i in (0, 1, 10, 11) else 5.9) * (0.94 if patient.female else 1.04)
    return _Rib(path[: turn + 1], path[turn - 1 :], width)


def draw_skeleton(frame: Frame, patient: Patient, view: Positioning, anatomy: Anatomy) -> Plane:
    """Return the bones' thickness as millimetres of water beyond the soft tissue they replace."""
    hoops = _ribs(patient, anatomy)
    backs = [ribbon(rib.back, _rib_widths(rib.back, rib.half_width)) for rib in hoops]
    fronts = [ribbon(rib.front, _rib_widths(rib.front, rib.half_width * 1.1)) for rib in hoops if len(rib.front) > 2]
    # The front ends fade into cartilage.
    bone = frame.blur(_tubes(frame, fronts, shell=1.8, core=6.0, cortex=1.5), 0.9)
    bone += _tubes(frame, backs, shell=3.4, core=8.5, cortex=1.6)
    x, y = frame.grid
    # Over the mediastinum and the belly scattered light drowns the ribs.
    bone *= smoothstep(np.abs(x), 12, 36) * (1 - 0.4 * smoothstep(y, 70, 140))
    bone += _tubes(frame, collarbones(patient, view, anatomy), shell=5.0, core=8.0, cortex=2.0)
    bone += _spine(frame, anatomy)
    bone += _shoulders(frame, patient, view, anatomy)
    return frame.blur(bone, 0.45) * np.float32(patient.bone)


def _rib_widths(path: Points, half_width: float) -> Points:
    """Return half-widths along a rib: a flat band, seen from its broad side but edge-on where it turns forward."""
    tangent = np.gradient(path, axis=0)
    tangent /= np.linalg.norm(tangent, axis=1, keepdims=True)
    width = half_width * np.hypot(tangent[:, 0], 0.45 * tangent[:, 1]) * np.linspace(0.88, 1.04, len(path))
    return width * _rounded(len(path))


def _rounded(count: int) -> Points:
    """Return 1 along a bone, falling in a quarter circle over its last three samples."""
    left = np.clip((np.arange(count)[::-1] + 0.15) / 3.0, 0, 1)
    return np.sqrt(left * (2 - left))


def _tubes(frame: Frame, outlines: list[Points], *, shell: float, core: float, cortex: float) -> Plane:
    """Return hollow bones: ``core`` everywhere inside, ``shell`` more along the rim, which is ``cortex`` mm thick."""
    mask = frame.fill(outlines)
    rim = frame.stroke([looped(outline) for outline in outlines], cortex)
    return _layers((mask, core), (cv2.min(rim, mask), shell))


def _layers(*layers: tuple[Mask, float]) -> Plane:
    """Return the sum of masks, each scaled to its thickness in millimetres."""
    first, *others = layers
    total = first[0] * np.float32(first[1] / 255)
    for mask, worth in others:
        total += mask * np.float32(worth / 255)
    return total


def collarbones(patient: Patient, view: Positioning, anatomy: Anatomy) -> list[Points]:
    """Return the outlines of the right and the left clavicle."""
    lift = 5 * view.inspiration + (6 if view.projection == "AP" else 0)
    path = smooth_curve(
        [(15, -74), (28, -80), (52, -87), (86, -91 - lift / 2), (118, -94 - lift), (146, -99 - lift), (166, -98 - lift)]
    )
    half = np.interp(path[:, 0], [15, 17, 24, 50, 90, 140, 162, 166], [2, 7.0, 8.4, 5.8, 5.0, 6.0, 6.8, 2])
    half *= 0.92 if patient.female else 1.0
    sway = [anatomy.sway * 62, 0]
    return [ribbon((path * [side, 1] + sway) * anatomy.scale, half) for side in (RIGHT, LEFT)]


def _spine(frame: Frame, anatomy: Anatomy) -> Plane:
    """Return the vertebral column: bodies with dense end plates, pedicles as rings, spinous processes."""
    top, height, half = _vertebrae()

    def place(template: ArrayLike) -> Points:
        """Return a shape, given in half-widths and heights of a vertebra, once for each of them: (M, N, 2)."""
        points = np.asarray(template) * np.stack([half, height], axis=1)[:, None]
        points[..., 0] += anatomy.sway * -55
        points[..., 1] += top[:, None]
        return points * anatomy.scale

    body = smooth_curve([(-1, 0.09), (1, 0.09), (0.9, 0.5), (1, 0.91), (-1, 0.91), (-0.9, 0.5)], closed=True, steps=5)
    thorn = smooth_curve([(0, 0.5), (0.17, 0.95), (0, 1.12), (-0.17, 0.95)], closed=True, steps=6)
    dense = np.zeros(frame.size_hw, np.uint8)
    for side in (RIGHT, LEFT):
        frame.stroke(place([(side * 0.9, 0.45), (side * 1.95, 0.28)]), 7.0, dense, value=55)
    for edge in (0.09, 0.91):
        frame.stroke(place([(-0.95, edge), (0.95, edge)]), 1.6, dense, value=190)
    for side in (RIGHT, LEFT):
        frame.stroke(looped(place(ellipse((side * 0.68, 0.34), (0.20, 0.25)))), 1.6, dense, value=130)
    frame.stroke(looped(place(thorn)), 1.8, dense, value=130)
    return _layers((frame.fill(place(body)), 7.5), (dense, 6.5))


def _vertebrae() -> tuple[Points, Points, Points]:
    """Return top, height and half-width of the vertebrae from the neck to the loin, each (M,)."""
    rank = np.arange(26)
    height = np.minimum(27.0, 15.0 * 1.035**rank)
    half = np.minimum(21.0, 10.5 * 1.03**rank)
    return -232.0 + np.concatenate([[0.0], np.cumsum(height)[:-1]]), height, half


def _shoulders(frame: Frame, patient: Patient, view: Positioning, anatomy: Anatomy) -> Plane:
    """Return shoulder blades and upper arm bones; in AP views the blades lie over the lungs."""
    inward = 16.0 if view.projection == "AP" else 0.0
    arm = arm_distance(patient, view)
    blade = smooth_curve(_BLADE, closed=True) - [inward, 0]
    border = smooth_curve(_BLADE_BORDER) - [inward, 0]
    ridge = smooth_curve([(102 - inward, -62), (130 - inward, -84), (160, -100), (172, -98)])
    ridge = ribbon(ridge, 4.2 * _rounded(len(ridge))[::-1])
    shaft = smooth_curve([(176, -62), (184, -30), (arm - 16, 40), (arm, 140), (arm + 4, 300)])
    shaft = ribbon(shaft, np.interp(shaft[:, 1], [-62, -30, 20, 300], [15, 11, 9.5, 9.5]))
    coracoid = ellipse((148 - inward / 2, -82), (7, 10), 30)
    head = ellipse((172, -72), (19, 21), -20)

    def both(points: Points) -> list[Points]:
        return [(points * [side, 1] + [anatomy.sway * -60, 0]) * anatomy.scale for side in (RIGHT, LEFT)]

    sheet = frame.fill(both(blade), value=90)
    frame.fill(both(coracoid), sheet, value=220)
    soft = 2 * round(1.0 / frame.spacing) + 1
    rim = cv2.blur(frame.stroke(both(border), 5.0), (soft, soft))
    tubes = [*both(ridge), *both(head), *both(shaft)]
    return _layers((sheet, 5.0), (rim, 7.0)) + _tubes(frame, tubes, shell=4.0, core=5.5, cortex=2.4)
