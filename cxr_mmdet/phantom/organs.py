"""Boxes of the organs in a phantom: its anatomy, as far as the exposed field shows it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

from cxr_mmdet.phantom.anatomy import LEFT, RIGHT
from cxr_mmdet.phantom.chest import below_diaphragm
from cxr_mmdet.phantom.shapes import ribbon
from cxr_mmdet.phantom.skeleton import collarbones

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from cxr_mmdet.phantom.anatomy import Anatomy
    from cxr_mmdet.phantom.patient import Patient, Positioning
    from cxr_mmdet.phantom.scene import Box
    from cxr_mmdet.phantom.shapes import Frame, Points

ORGANS = (
    "Left lung",
    "Right lung",
    "Heart",
    "Aortic arch",
    "Trachea",
    "Carina",
    "Left hilum",
    "Right hilum",
    "Left clavicle",
    "Right clavicle",
    "Left hemidiaphragm",
    "Right hemidiaphragm",
)
"""Classes of the anatomy; sides are the patient's."""

_SMALLEST_MM = 6.0
# Reach of the trunks of a hilum's vessels, millimetres: (medial, lateral) and (up, down).
_HILUM = (-8.0, 26.0), (-26.0, 38.0)
_DOME_BEGINS = 14.0


def organ_boxes(frame: Frame, patient: Patient, view: Positioning, anatomy: Anatomy) -> list[tuple[str, Box]]:
    """Return the organs that the field shows, in the order of ORGANS, with boxes in whole pixels clipped to it.

    A lung reaches from its apex to the costophrenic angle, behind the heart too. Findings hide no organ.
    """
    outlines: dict[str, Points] = {
        "Heart": heart_outline(anatomy),
        "Aortic arch": anatomy.knob,
        "Trachea": ribbon(anatomy.trachea, 8.6),
        "Carina": np.vstack([ribbon(path, 6.0) for path in anatomy.bronchi]),
    }
    right_bone, left_bone = collarbones(patient, view, anatomy)
    for name, side, lung, dome, hilum, bone in zip(
        ("Right", "Left"), (RIGHT, LEFT), anatomy.lungs, anatomy.diaphragm, anatomy.hila, (right_bone, left_bone),
        strict=True,
    ):  # fmt: skip
        outlines[f"{name} lung"] = _lung_corners(frame, lung, anatomy)
        outwards = side * dome[:, 0]
        reach = np.abs(anatomy.wall_x(side, float(dome[:, 1].max())))
        outlines[f"{name} hemidiaphragm"] = dome[(outwards > _DOME_BEGINS) & (outwards < reach)]
        outlines[f"{name} hilum"] = np.asarray(hilum) + np.array(_HILUM).T * [side, 1] * anatomy.scale
        outlines[f"{name} clavicle"] = bone
    boxes = ((name, _visible_box(frame, view, outlines[name])) for name in ORGANS)
    return [(name, box) for name, box in boxes if box is not None]


def heart_outline(anatomy: Anatomy) -> Points:
    """Return the outline of the heart's visible part, below the great vessels."""
    _, top, _, bottom = anatomy.heart_box
    outline = anatomy.heart.copy()
    outline[:, 1] = np.clip(outline[:, 1], top, bottom)
    return outline


def _lung_corners(frame: Frame, lung: ArrayLike, anatomy: Anatomy) -> Points:
    """Return the corners, in millimetres of the patient, of a lung's part above the diaphragm that the image shows."""
    mask = frame.fill([lung])
    frame.fill(below_diaphragm(anatomy), mask, value=0)
    x, y, width, height = cv2.boundingRect((mask > 127).astype(np.uint8))
    corners = np.array([(x, y), (x + width, y + height)], dtype=np.float64)
    return cv2.transform(corners[None], cv2.invertAffineTransform(frame.matrix))[0]


def _visible_box(frame: Frame, view: Positioning, outline_mm: ArrayLike) -> Box | None:
    """Return the box of an outline within the collimated field, or None where too little of it is there."""
    height, width = frame.size_hw
    left, top, right, bottom = (round(share * width) for share in view.collimation)
    points = frame.to_pixels(outline_mm)
    low = np.maximum(np.floor(points.min(axis=0)), (left, top))
    high = np.minimum(np.ceil(points.max(axis=0)), (width - right, height - bottom))
    if (high - low).min() * frame.spacing < _SMALLEST_MM:
        return None
    return float(low[0]), float(low[1]), float(high[0]), float(high[1])
