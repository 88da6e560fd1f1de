"""The lung's markings: arteries and veins that branch from the hila and thin out towards the pleura."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from cxr_mmdet.phantom.anatomy import LEFT, RIGHT

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cxr_mmdet.phantom.anatomy import Anatomy
    from cxr_mmdet.phantom.shapes import Frame, Plane, Points

# Main branches of one side: where they leave the hilum (x outwards, y), direction (degrees, 0 outwards, 90 down),
# radius in mm.
_TRUNKS = np.array([
    (-4, -8, -78, 4.4), (0, -8, -58, 3.9), (4, -6, -36, 3.6), (6, 0, -12, 3.4), (4, 4, 14, 3.6),
    (0, -4, 76, 6.6), (2, 10, 56, 4.6), (4, 8, 38, 4.0), (-6, 24, 22, 3.4), (-8, 30, 44, 3.4), (-10, -2, -70, 3.4),
    (-4, 16, 66, 4.0),
])  # fmt: skip

_THINNEST = 0.42
_SHEETS = ((0.0, 1.0), (1.0, 2.4), (2.4, 9.0))
"""Radii drawn on one sheet: vessels of a sheet hide one another, those of different sheets add up."""


@dataclass(frozen=True)
class _Tips:
    """Growing ends: where, which way, how thick, on which side; arrays of one length."""

    at: Points
    angle: Points
    radius: Points
    side: Points

    def joined(self, *others: _Tips) -> _Tips:
        parts = (self, *others)
        return _Tips(*(np.concatenate([getattr(p, name) for p in parts]) for name in ("at", "angle", "radius", "side")))

    def where(self, keep: NDArray[np.bool_]) -> _Tips:
        return _Tips(self.at[keep], self.angle[keep], self.radius[keep], self.side[keep])


def draw_lung_vessels(frame: Frame, anatomy: Anatomy, rng: np.random.Generator) -> Plane:
    """Return the vessels' thickness in millimetres of tissue, wherever they run; the lung's outline cuts them."""
    tips = _trunks(anatomy, rng)
    paths, radii = [], []
    while len(tips.radius):
        grown, tips_next = _grow(tips, rng)
        paths.append(grown)
        radii.append(tips.radius)
        tips = tips_next
    return _ink(frame, np.concatenate(paths), np.concatenate(radii))


def _trunks(anatomy: Anatomy, rng: np.random.Generator) -> _Tips:
    parts = []
    for side, hilum in zip((RIGHT, LEFT), anatomy.hila, strict=True):
        count = len(_TRUNKS)
        parts.append(
            _Tips(
                at=_TRUNKS[:, :2] * [side, 1] + np.asarray(hilum),
                angle=np.radians(_TRUNKS[:, 2] + rng.normal(0, 11, count)),
                radius=_TRUNKS[:, 3] * rng.uniform(0.7, 1.0, count),
                side=np.full(count, float(side)),
            )
        )
    return parts[0].joined(parts[1])


def _grow(tips: _Tips, rng: np.random.Generator) -> tuple[Points, _Tips]:
    """Return one generation's paths, (N, 6, 2), and the ends of the next: two at each end, some twigs on the way."""
    count = len(tips.radius)
    length = (8 + 6.5 * tips.radius**0.9) * rng.uniform(0.7, 1.3, count)
    turns = tips.angle[:, None] + np.cumsum(rng.normal(0, 0.165, (count, 5)), axis=1)
    steps = np.stack([tips.side[:, None] * np.cos(turns), np.sin(turns)], axis=2) * (length / 5)[:, None, None]
    paths = np.concatenate([tips.at[:, None], tips.at[:, None] + np.cumsum(steps, axis=1)], axis=1)
    heading = turns[:, -1]
    split = rng.uniform(0.18, 0.5, count)
    turn = rng.choice([-1.0, 1.0], count)
    major = _Tips(paths[:, -1], heading + turn * split * 0.6, tips.radius * rng.uniform(0.76, 0.88, count), tips.side)
    minor = _Tips(paths[:, -1], heading - turn * (split + 0.2), tips.radius * rng.uniform(0.52, 0.74, count), tips.side)
    twigs = _Tips(
        paths[:, 3],
        heading + turn * rng.uniform(0.6, 1.1, count),
        tips.radius * rng.uniform(0.3, 0.45, count),
        tips.side,
    ).where((tips.radius > 1.2) & (rng.random(count) < 0.8))
    ends = major.joined(minor, twigs)
    lateral = ends.at[:, 0] * ends.side
    return paths, ends.where(
        (ends.radius > _THINNEST) & (lateral > 5) & (lateral < 150) & (np.abs(ends.at[:, 1]) < 190)
    )


def _ink(frame: Frame, paths: Points, radii: Points) -> Plane:
    total = np.zeros(frame.size_hw, np.float32)
    for low, high in _SHEETS:
        sheet = np.zeros(frame.size_hw, np.uint8)
        edges = np.linspace(max(low, _THINNEST), min(high, 8.0), 6)
        for first, last in pairwise(edges):
            chosen = (radii > first) & (radii <= last) if last < high else radii > first
            radius = (first + last) / 2
            shade = round(255 * last / edges[-1])
            frame.stroke(paths[chosen], 1.6 * radius, sheet, value=shade, antialias=False)
        middle = (edges[0] + edges[-1]) / 2
        total += frame.blur(sheet.astype(np.float32), max(0.22 * middle, 0.3)) * np.float32(2.5 * edges[-1] / 255)
    return total
