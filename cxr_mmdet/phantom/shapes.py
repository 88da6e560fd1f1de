"""Drawing in millimetres: the image's frame, smooth curves, filled and stroked shapes, chords and noise."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import ArrayLike, NDArray

    Plane = NDArray[np.float32]
    Mask = NDArray[np.uint8]
    Points = NDArray[np.float64]

SUBPIXEL_BITS = 4
"""OpenCV's fixed-point drawing: coordinates are given in 1/16 pixel."""


@dataclass(frozen=True)
class Frame:
    """Mapping from the patient's millimetres to pixels of the image.

    The patient's origin is the midline at the carina; x grows towards the image's right (the patient's left side) and
    y downwards. ``matrix`` (2, 3) takes (x, y, 1) in millimetres to pixels.
    """

    size_hw: tuple[int, int]
    spacing: float
    matrix: Points

    @classmethod
    def place(
        cls, size_hw: tuple[int, int], spacing: float, origin_px: tuple[float, float], tilt_degrees: float
    ) -> Frame:
        """Return the frame whose patient's origin lies at ``origin_px`` (x, y), turned clockwise by the tilt."""
        cos, sin = math.cos(math.radians(tilt_degrees)), math.sin(math.radians(tilt_degrees))
        matrix = np.array([[cos, -sin, 0.0], [sin, cos, 0.0]]) / spacing
        matrix[:, 2] = origin_px
        return cls(size_hw, spacing, matrix)

    @cached_property
    def grid(self) -> tuple[Plane, Plane]:
        """The millimetre coordinates (x, y) of every pixel's centre, each of the image's shape."""
        inverse = cv2.invertAffineTransform(self.matrix).astype(np.float32)
        rows = np.arange(self.size_hw[0], dtype=np.float32)[:, None]
        columns = np.arange(self.size_hw[1], dtype=np.float32)[None, :]
        x, y = (inverse[i, 0] * columns + (inverse[i, 1] * rows + inverse[i, 2]) for i in range(2))
        return x, y

    def to_pixels(self, points_mm: ArrayLike) -> Points:
        """Return points, (…, 2), in pixels."""
        points = np.asarray(points_mm, dtype=np.float64)
        return points @ self.matrix[:, :2].T + self.matrix[:, 2]

    def crop(self, rows: slice, columns: slice) -> Frame:
        """Return the frame of a part of the image."""
        matrix = self.matrix.copy()
        matrix[:, 2] -= (columns.start, rows.start)
        return Frame((rows.stop - rows.start, columns.stop - columns.start), self.spacing, matrix)

    def halved(self) -> Frame:
        """Return the same field at half the resolution, for what has no sharp edge."""
        height, width = self.size_hw
        matrix = self.matrix * 0.5
        matrix[:, 2] -= 0.25
        return Frame(((height + 1) // 2, (width + 1) // 2), 2 * self.spacing, matrix)

    def enlarged(self, half: Plane) -> Plane:
        """Return a plane drawn in :meth:`halved` at this resolution."""
        return cv2.resize(half, self.size_hw[::-1], interpolation=cv2.INTER_LINEAR)

    def fill(self, outlines_mm: Iterable[ArrayLike], mask: Mask | None = None, *, value: int = 255) -> Mask:
        """Draw the union of closed outlines, each (N, 2), with smooth edges; on a new mask by default."""
        mask = np.zeros(self.size_hw, np.uint8) if mask is None else mask
        for outline in outlines_mm:
            cv2.fillPoly(mask, [self._fixed_point(outline)], value, cv2.LINE_AA, SUBPIXEL_BITS)
        return mask

    def stroke(
        self,
        paths_mm: Sequence[Points] | Points,
        width_mm: float,
        mask: Mask | None = None,
        *,
        value: int = 255,
        antialias: bool = True,
    ) -> Mask:
        """Draw open paths of one width; a width under a pixel is drawn one pixel wide and weaker.

        Args:
            paths_mm: (N, 2) each, or (M, N, 2).
            width_mm: the line's width.
            mask: where to draw; a new mask by default.
            value: 1…255.
            antialias: False is three times faster and enough where a blur follows.
        """
        mask = np.zeros(self.size_hw, np.uint8) if mask is None else mask
        width_px = width_mm / self.spacing
        shade = max(1.0, value * min(1.0, width_px))
        if isinstance(paths_mm, np.ndarray):
            lines = list(self._fixed_point(paths_mm))
        else:
            lines = [self._fixed_point(path) for path in paths_mm]
        kind = cv2.LINE_AA if antialias else cv2.LINE_8
        cv2.polylines(mask, lines, False, shade, max(1, round(width_px)), kind, SUBPIXEL_BITS)
        return mask

    def softened(self, mask: Mask, sigma_mm: float) -> Plane:
        """Return a drawn mask as 0…1 with blurred edges."""
        return self.blur(mask.astype(np.float32) * np.float32(1 / 255), sigma_mm)

    def blur(self, plane: Plane, sigma_mm: float) -> Plane:
        """Return the plane blurred by a Gaussian; wide ones are computed on a smaller copy."""
        return blur(plane, sigma_mm / self.spacing)

    def depth(self, *outlines_mm: ArrayLike) -> Plane:
        """Return how deep each pixel lies inside the union of closed outlines, in millimetres; 0 outside."""
        mask = np.zeros(self.size_hw, np.uint8)
        for outline in outlines_mm:
            cv2.fillPoly(mask, [self._fixed_point(outline)], 1, cv2.LINE_8, SUBPIXEL_BITS)
        return self.depth_of(mask)

    def depth_of(self, mask: Mask) -> Plane:
        """Return how deep each pixel lies inside the mask, in millimetres; 0 outside."""
        distance = cv2.distanceTransform(mask, cv2.DIST_L2, cv2.DIST_MASK_5)
        # Where the mask fills the image, OpenCV answers with float32's largest number.
        np.minimum(distance, np.float32(sum(self.size_hw)), out=distance)
        return np.maximum(distance * np.float32(self.spacing) - np.float32(0.5 * self.spacing), 0)

    def noise(self, rng: np.random.Generator, cell_mm: float) -> Plane:
        """Return smooth noise of about unit deviation whose blobs are ``cell_mm`` apart.

        It is laid over the image's field, so the same generator state gives the same pattern at every image size; one
        number is drawn from ``rng`` whatever the size, so what is drawn afterwards stays the same too.
        """
        own = np.random.Generator(np.random.PCG64(int(rng.integers(1 << 62))))
        height, width = (max(2, round(side * self.spacing / cell_mm)) for side in self.size_hw)
        coarse = own.standard_normal((height, width), dtype=np.float32)
        return cv2.resize(coarse, self.size_hw[::-1], interpolation=cv2.INTER_CUBIC) * np.float32(1.25)

    def _fixed_point(self, points_mm: ArrayLike) -> NDArray[np.int32]:
        return np.round(self.to_pixels(points_mm) * (1 << SUBPIXEL_BITS)).astype(np.int32)


def blur(plane: Plane, sigma_px: float) -> Plane:
    """Return the plane blurred by a Gaussian; above 6 px on a copy shrunk so that 3 px remain."""
    factor = int(sigma_px // 3)
    if factor < 2:
        return cv2.GaussianBlur(plane, (0, 0), max(sigma_px, 0.05), borderType=cv2.BORDER_REPLICATE)
    height, width = plane.shape
    small = cv2.resize(plane, (max(2, width // factor), max(2, height // factor)), interpolation=cv2.INTER_AREA)
    small = cv2.GaussianBlur(small, (0, 0), sigma_px / factor, borderType=cv2.BORDER_REPLICATE)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)


def chord(depth_mm: Plane, radius_mm: float) -> Plane:
    """Return the length of the ray through a body of round cross-section, ``depth_mm`` inside its silhouette."""
    inside = np.minimum(depth_mm, np.float32(radius_mm))
    square = np.float32(2 * radius_mm) - inside
    square *= inside
    np.sqrt(square, out=square)
    square *= 2
    return square


def smooth_curve(points: ArrayLike, *, closed: bool = False, steps: int = 12) -> Points:
    """Return a Catmull-Rom curve through the points, ``steps`` samples a span; shape (M, 2)."""
    knots = np.asarray(points, dtype=np.float64)
    if closed:
        knots = np.vstack([knots[-1:], knots, knots[:2]])
    else:
        knots = np.vstack([2 * knots[0] - knots[1], knots, 2 * knots[-1] - knots[-2]])
    t = (np.arange(steps) / steps)[None, :, None]
    p0, p1, p2, p3 = (knots[i : len(knots) - 3 + i, None, :] for i in range(4))
    curve = 0.5 * (2 * p1 + (p2 - p0) * t + (2 * p0 - 5 * p1 + 4 * p2 - p3) * t**2 + (3 * (p1 - p2) + p3 - p0) * t**3)
    curve = curve.reshape(-1, knots.shape[1])
    return curve if closed else np.vstack([curve, knots[-2:-1]])


def ellipse(center: tuple[float, float], radii: tuple[float, float], turn_degrees: float = 0.0) -> Points:
    """Return the outline of an ellipse, (48, 2)."""
    angle = np.linspace(0, 2 * math.pi, 48, endpoint=False)
    cos, sin = math.cos(math.radians(turn_degrees)), math.sin(math.radians(turn_degrees))
    local = np.stack([radii[0] * np.cos(angle), radii[1] * np.sin(angle)], axis=1)
    return local @ np.array([[cos, sin], [-sin, cos]]) + np.asarray(center)


def ribbon(path: Points, half_width: ArrayLike) -> Points:
    """Return the outline of a band along the path.

    Args:
        path: (N, 2).
        half_width: a number or one a point, (N,).
    """
    tangent = np.gradient(path, axis=0)
    tangent /= np.maximum(np.linalg.norm(tangent, axis=1, keepdims=True), 1e-9)
    normal = np.stack([-tangent[:, 1], tangent[:, 0]], axis=1) * np.broadcast_to(half_width, len(path))[:, None]
    return np.vstack([path + normal, (path - normal)[::-1]])


def looped(outline: Points) -> Points:
    """Return the outline with its first point again at the end, to be stroked as a path; (…, N, 2)."""
    return np.concatenate([outline, outline[..., :1, :]], axis=-2)


def mirror(points: ArrayLike) -> Points:
    """Return the points on the other side of the midline."""
    return np.asarray(points, dtype=np.float64) * np.array([-1.0, 1.0])


def smoothstep(value: Plane, low: float, high: float) -> Plane:
    """Return 0 below ``low``, 1 above ``high`` and a smooth ramp between; ``high`` may be the smaller."""
    t = np.clip((value - np.float32(low)) / np.float32(high - low), 0, 1)
    return t * t * (3 - 2 * t)
