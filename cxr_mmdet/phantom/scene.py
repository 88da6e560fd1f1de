"""Placement of findings: windows of the chest, places in the lungs, soft clouds, and the box of a shadow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

from cxr_mmdet.phantom.anatomy import LEFT, RIGHT
from cxr_mmdet.phantom.chest import AIR_SHARE
from cxr_mmdet.phantom.shapes import smoothstep

if TYPE_CHECKING:
    from cxr_mmdet.phantom.anatomy import Anatomy
    from cxr_mmdet.phantom.chest import Chest
    from cxr_mmdet.phantom.shapes import Frame, Plane, Points

    Box = tuple[float, float, float, float]


_FADE_MM = 4.0


@dataclass(frozen=True)
class Patch:
    """A part of the image with what the chest holds there.

    Attributes:
        frame: the part's own frame.
        rows: where it lies in the image.
        columns: likewise.
        air: millimetres of air a shadow can replace.
        inner: millimetres inside the lung's outer wall.
        markings: millimetres of vessels and mottle.
    """

    frame: Frame
    rows: slice
    columns: slice
    air: Plane
    inner: Plane
    markings: Plane

    def replace_air(self, water_mm: Plane) -> Plane:
        """Return the shadow of tissue that takes the place of air: it saturates where no air is left."""
        room = np.maximum(self.air - self.markings, np.float32(1e-3))
        return room * (1 - np.exp(-np.maximum(water_mm, 0) / room))


@dataclass(frozen=True)
class Shadow:
    """Tissue that a finding adds or removes, and the box of its visible part.

    Attributes:
        rows: where ``water_mm`` lies in the image.
        columns: likewise.
        water_mm: millimetres of water.
        box_xyxy: absolute pixels of the whole image, whole numbers.
        beyond_air: it may be denser than the filled lung, as lime and bone are.
    """

    rows: slice
    columns: slice
    water_mm: Plane
    box_xyxy: Box
    beyond_air: bool = False


@dataclass(frozen=True)
class Scene:
    """One chest in its frame, ready to have findings drawn into."""

    frame: Frame
    anatomy: Anatomy
    chest: Chest

    def window(self, center_mm: tuple[float, float], reach_mm: tuple[float, float]) -> Patch:
        """Return the part of the image within ``reach_mm`` (x, y) of a point."""
        center = self.frame.to_pixels(center_mm)
        reach = np.asarray(reach_mm) / self.frame.spacing + 2
        height, width = self.frame.size_hw
        low = np.clip(np.floor(center - reach), 0, (width - 8, height - 8)).astype(int)
        high = np.clip(np.ceil(center + reach), low + 8, (width, height)).astype(int)
        rows, columns = slice(int(low[1]), int(high[1])), slice(int(low[0]), int(high[0]))
        chest = self.chest
        return Patch(
            frame=self.frame.crop(rows, columns),
            rows=rows,
            columns=columns,
            air=chest.lung[rows, columns] * np.float32(AIR_SHARE),
            inner=chest.inner[rows, columns],
            markings=chest.markings[rows, columns],
        )

    def lung_top(self) -> float:
        """Return y of the lungs' apex."""
        return -112.0 * self.anatomy.scale[1]

    def lung_bottom(self, side: int) -> float:
        """Return y of the diaphragm's dome."""
        return self.anatomy.diaphragm_y(side, side * 72 * self.anatomy.scale[0])

    def span(self, side: int, y: float) -> tuple[float, float]:
        """Return how far from the midline the aerated lung begins and ends at this height, millimetres.

        Where none is in the image, a usual place is returned.
        """
        outwards = np.linspace(6, 150, 97)
        points = np.stack([side * outwards, np.full_like(outwards, y)], axis=1)
        columns, rows = np.round(self.frame.to_pixels(points)).astype(int).T
        height, width = self.frame.size_hw
        seen = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
        depth = self.chest.lung[np.clip(rows, 0, height - 1), np.clip(columns, 0, width - 1)]
        aerated = outwards[seen & (depth > 40)]
        return (float(aerated[0]), float(aerated[-1])) if len(aerated) else (40.0, 80.0)

    def place(
        self, rng: np.random.Generator, side: int, heights: tuple[float, float], across: tuple[float, float]
    ) -> tuple[float, float]:
        """Return a point (x, y) in one lung.

        Args:
            rng: chance.
            side: which lung.
            heights: range between 0 (apex) and 1 (diaphragm).
            across: range between 0 (mediastinum) and 1 (chest wall).
        """
        top, bottom = self.lung_top(), self.lung_bottom(side)
        y = top + (bottom - top) * float(rng.uniform(*heights))
        near, far = self.span(side, y)
        return side * (near + (far - near) * float(rng.uniform(*across))), y


def either_side(rng: np.random.Generator) -> int:
    """Return one of the two sides."""
    return RIGHT if rng.random() < 0.52 else LEFT


def cloud(
    frame: Frame,
    rng: np.random.Generator,
    center_mm: tuple[float, float],
    radii_mm: tuple[float, float],
    *,
    ragged: float,
    fuzz: float,
) -> Plane:
    """Return a blob, 1 inside and 0 outside.

    Args:
        frame: where to draw.
        rng: for the outline.
        center_mm: the middle.
        radii_mm: half axes.
        ragged: how far the outline strays, share of the radius.
        fuzz: width of the soft edge, share of the radius.
    """
    x, y = frame.grid
    distance = np.hypot((x - np.float32(center_mm[0])) / radii_mm[0], (y - np.float32(center_mm[1])) / radii_mm[1])
    size = float(np.mean(radii_mm))
    distance = distance + np.float32(ragged) * (frame.noise(rng, size * 0.9) + 0.5 * frame.noise(rng, size * 0.35))
    return smoothstep(distance, 1.0, 1.0 - fuzz)


def cast(
    window: Patch, water_mm: Plane, *, share: float = 0.15, grain_mm: float = 1.0, beyond_air: bool = False
) -> Shadow | None:
    """Return the shadow with its box, or None when nothing of it can be seen.

    Args:
        window: where ``water_mm`` lies.
        water_mm: what the finding adds to the tissue.
        share: the box holds what is darker or brighter than this share of the strongest part.
        grain_mm: texture finer than this does not decide about the box.
        beyond_air: see :class:`Shadow`.
    """
    strength = window.frame.blur(np.abs(water_mm).astype(np.float32), grain_mm)
    peak = float(strength.max())
    if peak < 1.0:
        return None
    visible = (strength > share * peak).astype(np.uint8)
    x, y, width, height = cv2.boundingRect(visible)
    if min(width, height) * window.frame.spacing < 2.0:
        return None
    left, top = window.columns.start + x, window.rows.start + y
    box = (float(left), float(top), float(left + width), float(top + height))
    faded = water_mm * _inside(window.frame, (x, y, width, height))
    return Shadow(window.rows, window.columns, faded, box, beyond_air)


def _inside(frame: Frame, rect: tuple[int, int, int, int]) -> Plane:
    """Return 1 inside the box and a short fade to 0 beyond it, where a shadow has only its invisible tails."""
    x, y, width, height = rect
    fade = np.float32(_FADE_MM / frame.spacing)
    columns = np.arange(frame.size_hw[1], dtype=np.float32)[None, :]
    rows = np.arange(frame.size_hw[0], dtype=np.float32)[:, None]
    beyond_x = np.maximum(np.maximum(x - columns, columns - (x + width - 1)), 0) / fade
    beyond_y = np.maximum(np.maximum(y - rows, rows - (y + height - 1)), 0) / fade
    return smoothstep(beyond_x, 1, 0) * smoothstep(beyond_y, 1, 0)


def outline_box(frame: Frame, outline_mm: Points) -> Box:
    """Return the box, in whole pixels, of a closed outline in millimetres."""
    points = frame.to_pixels(outline_mm)
    height, width = frame.size_hw
    low = np.clip(np.floor(points.min(axis=0)), 0, (width - 1, height - 1))
    high = np.clip(np.ceil(points.max(axis=0)), 1, (width, height))
    return float(low[0]), float(low[1]), float(high[0]), float(high[1])
