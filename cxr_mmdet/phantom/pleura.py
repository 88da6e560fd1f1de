"""Findings of the pleura: fluid, scars and air between lung and chest wall."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from cxr_mmdet.phantom.anatomy import LEFT, RIGHT
from cxr_mmdet.phantom.chest import AIR_SHARE
from cxr_mmdet.phantom.scene import cast, either_side
from cxr_mmdet.phantom.shapes import smoothstep

if TYPE_CHECKING:
    from cxr_mmdet.phantom.scene import Scene, Shadow

    Shadows = list[Shadow | None]


def effusion(scene: Scene, rng: np.random.Generator, severity: float) -> Shadows:
    """Return fluid in the costophrenic angle, its surface rising towards the wall; both sides in one of five."""
    sides = (RIGHT, LEFT) if rng.random() < 0.2 else (either_side(rng),)
    return [_meniscus(scene, rng, severity, side) for side in sides]


def _meniscus(scene: Scene, rng: np.random.Generator, severity: float, side: int) -> Shadow | None:
    wall = abs(scene.anatomy.wall_x(side, scene.lung_bottom(side)))
    angle_y = scene.anatomy.diaphragm_y(side, side * wall * 0.99)
    level = angle_y - 6 - 58 * severity**1.5 + rng.uniform(-3, 3)
    rise = 16 + 26 * severity
    top = level - rise
    window = scene.window((side * 75, (top + angle_y) / 2), (85, (angle_y - top) / 2 + 22))
    x, y = window.frame.grid
    from_wall = np.maximum(wall - x * np.float32(side), 0)
    surface = level - rise * np.exp(-from_wall / np.float32(10 + 9 * severity))
    fluid = smoothstep(y - surface, -1.0, 3.5 + 3 * severity)
    return cast(window, window.air * fluid * np.float32(0.88), share=0.18)


def thickening(scene: Scene, rng: np.random.Generator, severity: float) -> Shadows:
    """Return a rind of scarred pleura: a cap on the apex or a band along the side wall."""
    apical = rng.random() < 0.7
    sides = (RIGHT, LEFT) if rng.random() < 0.4 else (either_side(rng),)
    return [(_cap if apical else _band)(scene, rng, severity, side) for side in sides]


def _cap(scene: Scene, rng: np.random.Generator, severity: float, side: int) -> Shadow | None:
    top = scene.lung_top()
    height = 17 + 15 * severity
    window = scene.window((side * 56, top + height / 2 + 10), (52, height / 2 + 18))
    x, y = window.frame.grid
    lower_edge = (
        top
        + height * (0.62 + 0.20 * window.frame.noise(rng, 14))
        + 0.010 * np.square(x * np.float32(side) - 50 * scene.anatomy.scale[0])
    )
    rind = smoothstep(y - lower_edge, 2.2, -2.2) * smoothstep(x * np.float32(side), 12, 20)
    return cast(window, window.air * rind * np.float32(0.60 + 0.25 * severity), share=0.2)


def _band(scene: Scene, rng: np.random.Generator, severity: float, side: int) -> Shadow | None:
    top, bottom = scene.lung_top(), scene.lung_bottom(side)
    middle = top + (bottom - top) * float(rng.uniform(0.4, 0.85))
    half = 20 + 26 * severity
    thick = 5.0 + 6.5 * severity
    window = scene.window((side * 118 * scene.anatomy.scale[0], middle), (38, half + 4))
    x, y = window.frame.grid
    bulge = np.sqrt(np.clip(1 - np.square((y - np.float32(middle)) / np.float32(half)), 0, 1))
    edge = thick * bulge * (1 + 0.14 * window.frame.noise(rng, 18))
    outer = smoothstep(x * np.float32(side), 60, 75)
    rind = smoothstep(window.inner - edge, 0.8, -0.8) * (window.inner > 0) * (bulge > 0) * outer
    return cast(window, window.air * rind * np.float32(0.85), share=0.2, grain_mm=0.6)


def pneumothorax(scene: Scene, rng: np.random.Generator, severity: float) -> Shadows:
    """Return air around a lung that has come off the wall: no markings outside a fine pleural line."""
    side = either_side(rng)
    top, bottom = scene.lung_top(), scene.lung_bottom(side)
    depth = 13 + 26 * severity
    ends = top + (bottom - top) * (0.62 + 0.5 * severity)
    window = scene.window((side * 78 * scene.anatomy.scale[0], (top + ends) / 2), (85, (ends - top) / 2 + 8))
    frame = window.frame
    x, y = frame.grid
    taper = smoothstep(y, ends, ends - 0.65 * (ends - top))
    edge = depth * (0.25 + 0.75 * smoothstep(y, bottom, top)) * (1 + 0.06 * frame.noise(rng, 40)) * taper
    half = smoothstep(x * np.float32(side), 8, 16) * (window.inner > 0.3)
    free = smoothstep(window.inner - edge, 0.7, -0.7) * half * (taper > 0.02)
    line = np.exp(-np.square((window.inner - edge) / np.float32(0.75)) / 2) * half * (taper > 0.05)
    tissue = window.air * np.float32((1 - AIR_SHARE) / AIR_SHARE)
    squeezed = smoothstep(window.inner - edge, 0.5, 9) * smoothstep(window.inner - edge, 42, 12) * half * taper
    change = -free * (0.85 * tissue + window.markings) + line * 7.0 + squeezed * np.float32(4.5)
    region = cast(window, free * 20.0, share=0.3)
    return [] if region is None else [replace(region, water_mm=change)]
