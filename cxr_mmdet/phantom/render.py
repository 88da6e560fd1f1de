"""One image: the planned case drawn, with the exact box of every finding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cxr_mmdet.phantom import lesions, opacities, pleura
from cxr_mmdet.phantom.anatomy import CAGE_HALF_WIDTH, build_anatomy
from cxr_mmdet.phantom.chest import build_chest, tissue
from cxr_mmdet.phantom.film import develop, finish
from cxr_mmdet.phantom.organs import heart_outline, organ_boxes
from cxr_mmdet.phantom.patient import Stream, generator
from cxr_mmdet.phantom.scene import Scene, outline_box
from cxr_mmdet.phantom.shapes import Frame

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from cxr_mmdet.phantom.cases import PhantomCase, PlannedFinding
    from cxr_mmdet.phantom.chest import Chest
    from cxr_mmdet.phantom.scene import Box, Shadow
    from cxr_mmdet.phantom.shapes import Plane

    Draw = Callable[[Scene, np.random.Generator, float], list[Shadow | None]]

AORTA, HEART, OPACITY = "Aortic enlargement", "Cardiomegaly", "Lung Opacity"

_DRAW: dict[str, Draw] = {
    "Atelectasis": opacities.atelectasis,
    "Calcification": opacities.calcification,
    "Consolidation": opacities.consolidation,
    "ILD": opacities.interstitial_disease,
    "Infiltration": opacities.infiltration,
    OPACITY: opacities.lung_opacity,
    "Nodule/Mass": opacities.nodule,
    "Other lesion": lesions.other_lesion,
    "Pleural effusion": pleura.effusion,
    "Pleural thickening": pleura.thickening,
    "Pneumothorax": pleura.pneumothorax,
    "Pulmonary fibrosis": opacities.fibrosis,
}

_ATTEMPTS = 4
_CROWDED = 0.35


@dataclass(frozen=True)
class DrawnFinding:
    """A finding as it stands in the image.

    Attributes:
        label: one of the 14 names.
        severity: 0 (hardly visible) … 1 (gross).
        box_xyxy: tight, whole pixels.
    """

    label: str
    severity: float
    box_xyxy: Box


@dataclass(frozen=True)
class Phantom:
    """One synthetic radiograph.

    Attributes:
        case: what was drawn.
        image: (height, width) float32, 0 black … 1 white, as a viewer shows it.
        findings: with their boxes, in the order of the case.
        organs: name and box of each organ that the field shows.
        spacing: millimetres per pixel.
    """

    case: PhantomCase
    image: Plane
    findings: tuple[DrawnFinding, ...]
    organs: tuple[tuple[str, Box], ...]
    spacing: float


def render_phantom(case: PhantomCase, *, size: int = 1024, omit: Collection[int] = ()) -> Phantom:
    """Return the radiograph of this case.

    Args:
        case: from :func:`cxr_mmdet.phantom.cases.plan_case`.
        size: short edge in pixels.
        omit: positions in ``case.findings`` to leave out; every other pixel stays the same, noise included.
    """
    frame = frame_of(case, size)
    scene = scene_of(case, frame, case.findings)
    drawn = draw_findings(case, scene)
    kept = [i for i in range(len(case.findings)) if i not in omit]
    shown = scene
    if any(case.findings[i].label in (AORTA, HEART) for i in omit):
        shown = scene_of(case, frame, [case.findings[i] for i in kept])
    findings = [
        DrawnFinding(case.findings[i].label, case.findings[i].severity, box) for i in kept for box, _ in drawn[i]
    ]
    water = _composed(shown.chest, [shadow for i in kept for _, shadow in drawn[i] if shadow is not None])
    noise = generator(case.seed, Stream.NOISE, case.index)
    image = finish(develop(frame, water, case.view, shown.chest.exposure, noise), case.view)
    organs = tuple(organ_boxes(frame, case.patient, case.view, shown.anatomy))
    return Phantom(case, image, tuple(findings), organs, frame.spacing)


def _composed(chest: Chest, shadows: list[Shadow]) -> Plane:
    """Return the tissue with the shadows; together they fill the lung at most, only lime and bone go beyond."""
    water = tissue(chest)
    filled = np.maximum(chest.solid, water)
    for beyond_air in (False, True):
        for shadow in shadows:
            if shadow.beyond_air == beyond_air:
                part = water[shadow.rows, shadow.columns]
                part += shadow.water_mm
                if not beyond_air:
                    np.minimum(part, filled[shadow.rows, shadow.columns], out=part)
    return water


def frame_of(case: PhantomCase, size: int) -> Frame:
    """Return where the patient lies in an image with this short edge."""
    patient, view = case.patient, case.view
    width_mm = 2 * (CAGE_HALF_WIDTH * patient.scale_x + patient.wall) + view.margin
    spacing = width_mm / size
    height = round(size * view.aspect)
    origin = (0.5 * size + view.shift[0] / spacing, 0.46 * height + view.shift[1] / spacing)
    return Frame.place((height, size), spacing, origin, view.tilt)


def scene_of(case: PhantomCase, frame: Frame, findings: Collection[PlannedFinding]) -> Scene:
    """Return the patient's chest; of the findings only an enlarged heart and aorta are part of it."""
    severity = {finding.label: finding.severity for finding in findings}
    anatomy = build_anatomy(
        case.patient,
        case.view,
        heart_ratio=0.53 + 0.12 * severity[HEART] if HEART in severity else None,
        knob_radius=20.5 + 8.0 * severity[AORTA] if AORTA in severity else None,
    )
    return Scene(frame, anatomy, build_chest(frame, case.seed, case.patient, case.view, anatomy))


def draw_findings(case: PhantomCase, scene: Scene) -> list[list[tuple[Box, Shadow | None]]]:
    """Return for every planned finding its boxes and shadows; heart and aorta are part of the anatomy."""
    drawn: list[list[tuple[Box, Shadow | None]]] = []
    occupied: list[Box] = []
    for planned in case.findings:
        if planned.label in (AORTA, HEART):
            outline = scene.anatomy.knob if planned.label == AORTA else heart_outline(scene.anatomy)
            drawn.append([(outline_box(scene.frame, outline), None)])
            continue
        rng = generator(case.seed, Stream.FINDING, case.patient.number, planned.key)
        pneumonia = case.bedside and planned.label == OPACITY
        draw = opacities.pneumonia if pneumonia else _DRAW[planned.label]
        shadows = _draw_apart(scene, rng, draw, planned.severity, occupied)
        occupied += [shadow.box_xyxy for shadow in shadows]
        drawn.append([(shadow.box_xyxy, shadow) for shadow in shadows])
    return drawn


def _draw_apart(
    scene: Scene, rng: np.random.Generator, draw: Draw, severity: float, occupied: list[Box]
) -> list[Shadow]:
    """Return the finding's shadows, drawn again when they fall onto another finding, as long as the attempts last."""
    best: list[Shadow] = []
    for _ in range(_ATTEMPTS):
        shadows = [shadow for shadow in draw(scene, rng, severity) if shadow is not None]
        if shadows:
            best = shadows
            boxes = [shadow.box_xyxy for shadow in shadows]
            others = [_overlap(box, other) for i, box in enumerate(boxes) for other in [*occupied, *boxes[:i]]]
            if max(others, default=0.0) < _CROWDED:
                break
    return best


def _overlap(box: Box, other: Box) -> float:
    """Return how much of the smaller box the other one covers, 0…1."""
    width = min(box[2], other[2]) - max(box[0], other[0])
    height = min(box[3], other[3]) - max(box[1], other[1])
    smaller = min((b[2] - b[0]) * (b[3] - b[1]) for b in (box, other))
    return max(width, 0.0) * max(height, 0.0) / smaller
