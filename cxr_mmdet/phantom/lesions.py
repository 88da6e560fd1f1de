"""Lesions that readers call "other lesion": cavities, bullae, healed rib fractures, hiatal hernias, masses."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from cxr_mmdet.phantom.anatomy import RIGHT
from cxr_mmdet.phantom.scene import cast, either_side
from cxr_mmdet.phantom.shapes import chord, ellipse, smoothstep

if TYPE_CHECKING:
    from collections.abc import Callable

    from cxr_mmdet.phantom.scene import Scene, Shadow

    Shadows = list[Shadow | None]


def other_lesion(scene: Scene, rng: np.random.Generator, severity: float) -> Shadows:
    """Return one of the rarer lesions."""
    kinds: list[Callable[[Scene, np.random.Generator, float], Shadow | None]] = [
        _cavity, _bulla, _rib_callus, _hiatal_hernia, _mediastinal_mass,
    ]  # fmt: skip
    return [kinds[int(rng.choice(len(kinds), p=[0.25, 0.12, 0.28, 0.15, 0.20]))](scene, rng, severity)]


def _cavity(scene: Scene, rng: np.random.Generator, severity: float) -> Shadow | None:
    """A ring with a thick wall and some fluid at its bottom."""
    center = scene.place(rng, either_side(rng), (0.15, 0.65), (0.3, 0.7))
    radius = 10 + 12 * severity
    window = scene.window(center, (1.4 * radius, 1.4 * radius))
    frame = window.frame
    outline = ellipse(center, (radius, radius * rng.uniform(0.85, 1.1)), rng.uniform(0, 90))
    depth = frame.depth(outline)
    wall = (2.6 + 2.0 * severity) * (1 + 0.25 * np.clip(frame.noise(rng, 8), -2, 2))
    shell = chord(np.maximum(depth, 0), radius) - chord(np.maximum(depth - wall, 0), 0.8 * radius)
    level = smoothstep(frame.grid[1] - center[1], 0.35 * radius, 0.35 * radius + 1.5) * (depth > wall)
    shell = np.maximum(shell, 0)
    return cast(window, window.replace_air(1.7 * frame.blur(shell, 0.5) + 14 * frame.blur(level, 0.5)), grain_mm=0.6)


def _bulla(scene: Scene, rng: np.random.Generator, severity: float) -> Shadow | None:
    """A thin-walled bubble without markings."""
    center = scene.place(rng, either_side(rng), (0.12, 0.3), (0.4, 0.7))
    radius = 12 + 13 * severity
    window = scene.window(center, (1.2 * radius, 1.2 * radius))
    frame = window.frame
    depth = frame.depth(ellipse(center, (radius, 1.1 * radius), rng.uniform(0, 90)))
    wall = np.exp(-np.square((depth - 1.2) / np.float32(0.8)) / 2) * (depth > 0)
    hollow = smoothstep(depth, 1.5, 5) * (window.markings + 0.16 * window.air)
    return cast(window, 8.0 * wall - hollow, share=0.25, grain_mm=0.6)


def _rib_callus(scene: Scene, rng: np.random.Generator, severity: float) -> Shadow | None:
    """A bony knot on a side rib, where it healed."""
    side = either_side(rng)
    center = scene.place(rng, side, (0.35, 0.85), (0.86, 0.98))
    radius = 7 + 5 * severity
    window = scene.window(center, (2.2 * radius, 1.8 * radius))
    frame = window.frame
    turn = side * rng.uniform(35, 60)
    along = ellipse(center, (1.5 * radius, 0.85 * radius), turn)
    knot = frame.blur(chord(frame.depth(along), radius), 0.8)
    gap = np.array([[-1.0, 0.25], [1.0, -0.25]]) * 0.7 * radius + center
    crack = frame.softened(frame.stroke([gap], 1.4), 0.4)
    mottle = 1 + 0.12 * frame.noise(rng, 6)
    return cast(
        window, np.maximum((1.6 + 0.8 * severity) * knot * mottle - 9 * crack, 0), grain_mm=0.8, beyond_air=True
    )


def _hiatal_hernia(scene: Scene, rng: np.random.Generator, severity: float) -> Shadow | None:
    """A stomach behind the heart, with an air-fluid level."""
    radius = 19 + 13 * severity
    center = (14 + rng.uniform(-6, 10), scene.lung_bottom(RIGHT) - 0.55 * radius)
    window = scene.window(center, (1.3 * radius, 1.3 * radius))
    frame = window.frame
    depth = frame.depth(ellipse(center, (radius, 0.88 * radius), rng.uniform(-15, 15)))
    body = chord(depth, radius)
    gas = smoothstep(frame.grid[1] - center[1], 1.5, -1.5) * chord(np.maximum(depth - 2.5, 0), radius)
    return cast(window, frame.blur(0.5 * body - 1.05 * gas, 1.0), share=0.1, grain_mm=0.8, beyond_air=True)


def _mediastinal_mass(scene: Scene, rng: np.random.Generator, severity: float) -> Shadow | None:
    """A bulge of the upper mediastinum into the right lung."""
    height = scene.lung_top() + rng.uniform(58, 84)
    radius = 19 + 13 * severity
    center = (-(26 + 0.35 * radius), height)
    window = scene.window(center, (1.2 * radius, 1.5 * radius))
    frame = window.frame
    outline = ellipse(center, (0.8 * radius, 1.2 * radius), math.degrees(0.05))
    mass = chord(frame.depth(outline), radius)
    return cast(window, window.replace_air(1.6 * frame.blur(mass, 0.5)), share=0.15, grain_mm=0.8)
