"""Findings inside the lungs: everything that takes the place of air."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from cxr_mmdet.phantom.anatomy import LEFT, RIGHT
from cxr_mmdet.phantom.scene import cast, cloud, either_side
from cxr_mmdet.phantom.shapes import chord, ellipse, smooth_curve, smoothstep

if TYPE_CHECKING:
    from cxr_mmdet.phantom.scene import Scene, Shadow
    from cxr_mmdet.phantom.shapes import Frame, Plane

    Shadows = list[Shadow | None]


def atelectasis(scene: Scene, rng: np.random.Generator, severity: float) -> Shadows:
    """Return collapsed lung: plates above the diaphragm, or an upper lobe folded against the mediastinum."""
    return [_plates(scene, rng, severity) if rng.random() < 0.6 else _collapsed_upper_lobe(scene, rng, severity)]


def _plates(scene: Scene, rng: np.random.Generator, severity: float) -> Shadow | None:
    side = either_side(rng)
    center = scene.place(rng, side, (0.66, 0.88), (0.35, 0.65))
    length = 34 + 34 * severity
    window = scene.window(center, (length, 0.8 * length))
    slope = side * math.radians(rng.uniform(-30, 8))
    total = np.zeros(window.frame.size_hw, np.float32)
    for i in range(int(rng.integers(1, 4))):
        half = length * rng.uniform(0.35, 0.62)
        middle = np.add(center, (rng.uniform(-8, 8), (i - 1) * rng.uniform(7, 14)))
        along = np.array([math.cos(slope), math.sin(slope)])
        bend = np.array([0, rng.uniform(-4, 4)])
        path = smooth_curve([middle - half * along, middle + bend, middle + half * along])
        thick = rng.uniform(2.2, 4.2) + 2.4 * severity
        total += window.frame.softened(window.frame.stroke([path], thick), 0.9) * np.float32(14 + 14 * severity)
    return cast(window, window.replace_air(total), share=0.2)


def _collapsed_upper_lobe(scene: Scene, rng: np.random.Generator, severity: float) -> Shadow | None:
    side = either_side(rng)
    top = scene.lung_top()
    fissure_inner = top + 96 - 22 * severity + rng.uniform(-6, 6)
    fissure_outer = fissure_inner - 34 - 16 * severity
    near, _ = scene.span(side, top + 40)
    _, far = scene.span(side, fissure_outer)
    fissure = smooth_curve(
        [
            (side * 4, fissure_inner + 4),
            (side * near, fissure_inner),
            (side * (near + far) / 2, (fissure_inner + fissure_outer) / 2 - 7),
            (side * (far + 14), fissure_outer),
        ]
    )
    outline = np.vstack([fissure, [(side * (far + 14), top - 20), (side * 4, top - 20)]])
    window = scene.window((side * 62, top + 45), (80, 75))
    lobe = window.frame.softened(window.frame.fill([outline]), 0.7)
    mottle = 1 + 0.12 * window.frame.noise(rng, 9)
    return cast(window, window.air * lobe * mottle * np.float32(0.50 + 0.35 * severity), share=0.2)


def consolidation(scene: Scene, rng: np.random.Generator, severity: float) -> Shadows:
    """Return filled air spaces: dense, fuzzy, with air-filled bronchi in it; a fissure may cut it straight."""
    side = either_side(rng)
    center = scene.place(rng, side, (0.3, 0.85), (0.25, 0.7))
    radius = 20 + 20 * severity
    window = scene.window(center, (1.6 * radius, 1.7 * radius))
    radii = (radius * rng.uniform(0.8, 1.1), radius * rng.uniform(0.85, 1.25))
    blob = cloud(window.frame, rng, center, radii, ragged=0.20, fuzz=0.8)
    if rng.random() < 0.5:
        blob = blob * _fissure_cut(window.frame, center, radius, side)
    filled = window.air * blob * np.float32(0.50 + 0.26 * severity) * (1 + 0.10 * window.frame.noise(rng, 9))
    return [cast(window, np.maximum(filled * (1 - 0.34 * _bronchogram(window.frame, rng, center, side)), 0), share=0.2)]


def _fissure_cut(frame: Frame, center: tuple[float, float], radius: float, side: int) -> Plane:
    x, y = frame.grid
    line = center[1] + 0.45 * radius + 0.15 * side * (x - np.float32(center[0]))
    return smoothstep(y - line, 1.2, -1.2)


def _bronchogram(frame: Frame, rng: np.random.Generator, center: tuple[float, float], side: int) -> Plane:
    mask = np.zeros(frame.size_hw, np.uint8)
    root = np.array([center[0] - side * 22, center[1] - 14])
    for _ in range(6):
        tip = np.add(center, (side * rng.uniform(2, 24), rng.uniform(-16, 26)))
        bend = (root + tip) / 2 + rng.normal(0, 4, 2)
        path = smooth_curve([root, bend, tip])
        frame.stroke([path], rng.uniform(0.8, 1.8), mask, value=int(rng.integers(140, 255)))
    return frame.softened(mask, 0.55)


def interstitial_disease(scene: Scene, rng: np.random.Generator, severity: float) -> Shadows:
    """Return a net of thickened septa in the outer and lower lung, on both sides in most patients."""
    sides = (RIGHT, LEFT) if rng.random() < 0.75 else (either_side(rng),)
    start = rng.uniform(0.12, 0.42) - 0.10 * severity
    return [_net(scene, rng, severity, side, start) for side in sides]


def _net(scene: Scene, rng: np.random.Generator, severity: float, side: int, start: float) -> Shadow | None:
    top, bottom = scene.lung_top(), scene.lung_bottom(side)
    first = top + (bottom - top) * (start + rng.uniform(-0.03, 0.03))
    middle = (side * 82 * scene.anatomy.scale[0], (first + bottom + 30) / 2)
    window = scene.window(middle, (76, (bottom + 30 - first) / 2 + 20))
    frame = window.frame
    x, y = frame.grid
    upper_edge = smoothstep(y, first - 4, first + 14)
    outwards = smoothstep(x * np.float32(side), 22, 48)
    region = upper_edge * outwards * smoothstep(window.inner, 1, 6) * smoothstep(window.air, 12, 40)
    webs = 1.0 * _web(frame, rng, 6.5, 0.20) + 0.8 * _web(frame, rng, 4.2, 0.22)
    grains = np.clip(frame.noise(rng, 3.6) - 0.9, 0, 2)
    haze = 0.28 + 0.12 * frame.noise(rng, 16)
    net = region * np.maximum(webs + grains + haze, 0) * np.float32(8.5 + 7.5 * severity)
    return cast(window, window.replace_air(net), share=0.3, grain_mm=4.0)


def _web(frame: Frame, rng: np.random.Generator, cell_mm: float, width: float) -> Plane:
    """Return thin lines around cells: where smooth noise changes its sign."""
    noise = frame.noise(rng, cell_mm)
    return np.exp(-np.square(noise / np.float32(width)) / 2)


def infiltration(scene: Scene, rng: np.random.Generator, severity: float) -> Shadows:
    """Return patches of flaky opacity that melt into one another."""
    sides = [either_side(rng)]
    if rng.random() < 0.28:
        sides.append(-sides[0])
    return [_flakes(scene, rng, severity, side) for side in sides]


def _flakes(scene: Scene, rng: np.random.Generator, severity: float, side: int) -> Shadow | None:
    center = scene.place(rng, side, (0.18, 0.8), (0.3, 0.7))
    radius = 22 + 16 * severity
    window = scene.window(center, (1.6 * radius, 1.8 * radius))
    frame = window.frame
    radii = (radius * rng.uniform(0.8, 1.1), radius * rng.uniform(0.9, 1.4))
    area = cloud(frame, rng, center, radii, ragged=0.12, fuzz=0.45)
    patches = smoothstep(frame.noise(rng, 13.0) + 0.7 * frame.noise(rng, 6.0), -1.2, 1.6)
    flakes = area * (0.45 + 0.85 * patches + 0.10 * frame.noise(rng, 3.0)) * np.float32(25 + 20 * severity)
    return cast(window, window.replace_air(np.maximum(flakes, 0)), share=0.22, grain_mm=3.0)


def lung_opacity(scene: Scene, rng: np.random.Generator, severity: float) -> Shadows:
    """Return an even haze through which the vessels still show."""
    shadows = []
    for _ in range(1 if rng.random() < 0.75 else 2):
        center = scene.place(rng, either_side(rng), (0.2, 0.9), (0.2, 0.8))
        radius = 13 + 24 * severity * rng.uniform(0.6, 1.0)
        window = scene.window(center, (1.6 * radius, 1.6 * radius))
        radii = (radius * rng.uniform(0.8, 1.2), radius * rng.uniform(0.8, 1.2))
        haze = cloud(window.frame, rng, center, radii, ragged=0.16, fuzz=0.6)
        shadows.append(cast(window, window.replace_air(haze * np.float32(17 + 15 * severity)), share=0.2))
    return shadows


def pneumonia(scene: Scene, rng: np.random.Generator, severity: float) -> Shadows:
    """Return filled air spaces as at the bedside: vague and tall, in the middle and lower zones, mostly of both lungs.

    Where they meet the heart and the diaphragm, whose borders are seen by the air beside them, these vanish.
    """
    side = either_side(rng)
    sides = (side, -side) if rng.random() < 0.62 else (side,)
    return [_pneumonia(scene, rng, severity * rng.uniform(0.7, 1.0), side) for side in sides]


def _pneumonia(scene: Scene, rng: np.random.Generator, severity: float, side: int) -> Shadow | None:
    x_mm, y_mm = scene.place(rng, side, (0.45, 1.0), (0.3, 0.7))
    half_width = 30 * math.exp(rng.normal(0, 0.25)) + 18 * severity
    half_height = half_width * math.exp(rng.normal(0.45, 0.3))
    bottom = scene.lung_bottom(side)
    y_mm = float(np.clip(y_mm, scene.lung_top() + 0.7 * half_height, max(bottom - 0.2 * half_height, 0)))
    window = scene.window((x_mm, y_mm), (1.7 * half_width, 1.7 * half_height))
    frame = window.frame
    blob = cloud(frame, rng, (x_mm, y_mm), (1.2 * half_width, 1.2 * half_height), ragged=0.22, fuzz=0.95)
    blob = blob * smoothstep(frame.grid[0] * np.float32(side), 0, 14)
    patchy = rng.uniform(0, 0.5)
    texture = smoothstep(frame.noise(rng, rng.uniform(9, 20)) + 0.6 * frame.noise(rng, 6.0), -1.3, 1.6)
    share = rng.uniform(0.16, 0.30) + 0.42 * severity
    filled = window.air * blob * (1 - patchy + 1.6 * patchy * texture) * np.float32(share)
    if severity > 0.5:
        filled = filled * (1 - 0.3 * _bronchogram(frame, rng, (x_mm, y_mm), side))
    return cast(window, window.replace_air(1.3 * filled), share=0.22, grain_mm=4.0)


def nodule(scene: Scene, rng: np.random.Generator, severity: float) -> Shadows:
    """Return one to four round shadows, from 8 mm to a mass of 70 mm."""
    count = int(rng.choice([1, 2, 3, 4], p=[0.55, 0.22, 0.13, 0.10]))
    return [_nodule(scene, rng, severity) for _ in range(count)]


def _nodule(scene: Scene, rng: np.random.Generator, severity: float) -> Shadow | None:
    center = scene.place(rng, either_side(rng), (0.12, 0.94), (0.12, 0.88))
    radius = 3.9 * math.exp(rng.uniform(0.0, 1.2) + 1.0 * severity * rng.random())
    window = scene.window(center, (1.6 * radius + 2, 1.6 * radius + 2))
    frame = window.frame
    lobes = 1 + 0.06 * rng.standard_normal(12)
    outline = ellipse(center, (radius * rng.uniform(0.88, 1.1), radius), rng.uniform(0, 180))
    angle = np.linspace(0, 2 * math.pi, len(outline), endpoint=False)
    strays = np.interp(angle, np.linspace(0, 2 * math.pi, 13), np.append(lobes, lobes[0]))
    outline = np.asarray(center) + (outline - center) * strays[:, None]
    ball = chord(frame.depth(outline), radius)
    ball = frame.blur(ball, 0.5 + 0.03 * radius)
    denser = 1.6 + 1.4 * math.exp(-radius / 9) + 0.5 * severity
    return cast(window, window.replace_air(ball * np.float32(denser)), share=0.12, grain_mm=0.4)


def fibrosis(scene: Scene, rng: np.random.Generator, severity: float) -> Shadows:
    """Return scars: strands that pull towards the hilum, mostly in the apices."""
    sides = (RIGHT, LEFT) if rng.random() < 0.35 else (either_side(rng),)
    return [_strands(scene, rng, severity, side) for side in sides]


def _strands(scene: Scene, rng: np.random.Generator, severity: float, side: int) -> Shadow | None:
    apical = rng.random() < 0.78
    center = scene.place(rng, side, (0.13, 0.26) if apical else (0.66, 0.85), (0.35, 0.65))
    hilum = np.asarray(scene.anatomy.hila[0 if side == RIGHT else 1])
    reach = 14 + 14 * severity
    window = scene.window(center, (1.5 * reach, 1.5 * reach))
    frame = window.frame
    pull = hilum - np.asarray(center)
    pull /= np.linalg.norm(pull)
    mask = np.zeros(frame.size_hw, np.uint8)
    for _ in range(int(13 + 14 * severity)):
        start = np.asarray(center) + rng.normal(0, 0.42 * reach, 2)
        turn = rng.normal(0, 0.45)
        along = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]]) @ pull
        half = rng.uniform(0.22, 0.5) * reach
        path = smooth_curve([start - half * along, start + rng.normal(0, 1.8, 2), start + half * along])
        frame.stroke([path], rng.uniform(0.7, 1.9), mask, value=int(rng.integers(120, 255)))
    scars = frame.softened(mask, 0.45) * np.float32(13 + 11 * severity)
    blotch = cloud(frame, rng, center, (0.7 * reach, 0.7 * reach), ragged=0.3, fuzz=0.8) * np.float32(5 + 7 * severity)
    return cast(window, window.replace_air(scars + blotch * (1 + 0.5 * frame.noise(rng, 4))), share=0.25, grain_mm=1.6)


def calcification(scene: Scene, rng: np.random.Generator, severity: float) -> Shadows:
    """Return lime: specks in old scars and nodes, or a rim in the wall of the aortic arch."""
    if rng.random() < 0.2:
        return [_arch_rim(scene, rng, severity)]
    return [_specks(scene, rng, severity) for _ in range(1 if rng.random() < 0.75 else 2)]


def _specks(scene: Scene, rng: np.random.Generator, severity: float) -> Shadow | None:
    center = scene.place(rng, either_side(rng), (0.12, 0.8), (0.1, 0.85))
    spread = 2.5 + 6.0 * severity
    window = scene.window(center, (4 * spread + 6, 4 * spread + 6))
    turn = np.linspace(0, 2 * math.pi, 9, endpoint=False)
    specks = []
    for i in range(int(rng.integers(2, 6))):
        at = np.add(center, rng.normal(0, spread, 2) * (i > 0))
        radius = (rng.uniform(1.3, 2.6) + 1.2 * severity * rng.random()) * rng.uniform(0.6, 1.25, 9)
        specks.append(at + np.stack([np.cos(turn) * radius, np.sin(turn) * radius], axis=1))
    lime = window.frame.softened(window.frame.fill(specks), 0.4) * np.float32(26 + 16 * severity)
    return cast(window, lime, grain_mm=0.3, beyond_air=True)


def _arch_rim(scene: Scene, rng: np.random.Generator, severity: float) -> Shadow | None:
    knob = scene.anatomy.knob
    middle = knob.mean(axis=0)
    inset = middle + 0.90 * (knob - middle)
    angle = np.arctan2(inset[:, 1] - middle[1], inset[:, 0] - middle[0])
    first = rng.uniform(-1.5, -0.6)
    arc = inset[np.argsort(angle)][(np.sort(angle) > first) & (np.sort(angle) < first + 1.1 + 0.9 * severity)]
    window = scene.window((float(middle[0]), float(middle[1])), (50, 50))
    lime = window.frame.softened(window.frame.stroke([arc], 1.8 + 0.8 * severity), 0.4)
    return cast(window, lime * np.float32(22 + 12 * severity), grain_mm=0.3, beyond_air=True)
