"""Patient and exposure: the patient's build and the view of one exposure, drawn from the seed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import IntEnum

import numpy as np


class Stream(IntEnum):
    """Independent sources of chance; one never shifts another, so a finding can be left out and nothing else moves."""

    PAIRING = 0
    PATIENT = 1
    VIEW = 2
    PLAN = 3
    FINDING = 4
    TEXTURE = 5
    NOISE = 6
    READERS = 7
    FILE = 8
    POOL = 9
    BEDSIDE = 10


def generator(seed: int, stream: Stream, *key: int) -> np.random.Generator:
    """Return the generator of one purpose: it depends on the seed, the stream and the key, and on nothing else."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(entropy=(seed, int(stream), *key))))


@dataclass(frozen=True)
class Patient:
    """A build; lengths in millimetres, before the scales.

    Attributes:
        number: the index of the patient's first image.
        female: decides breasts and size.
        age: years.
        scale_x: chest width against an average adult.
        scale_y: chest height against an average adult.
        depth: the chest's front-to-back thickness of soft tissue.
        wall: soft tissue between ribs and skin at the side; the habitus.
        heart_ratio: heart width by chest width of the healthy heart.
        knob_radius: of the healthy aortic knob.
        dome: how high the right hemidiaphragm bulges.
        dome_step: how much lower the left one stands.
        rib_slope: 1 is average; more is steeper.
        bone: mineral density, 1 is average.
        breast: thickness of each breast, 0 for none.
        stomach: size of the gas bubble, 0 for none.
        vessel: prominence of the lung vessels, 1 is average.
    """

    number: int
    female: bool
    age: int
    scale_x: float
    scale_y: float
    depth: float
    wall: float
    heart_ratio: float
    knob_radius: float
    dome: float
    dome_step: float
    rib_slope: float
    bone: float
    breast: float
    stomach: float
    vessel: float


@dataclass(frozen=True)
class Positioning:
    """Position of the patient, and the field and dose of one exposure.

    Attributes:
        projection: PA or AP.
        tilt: the patient's lean in the image plane, degrees.
        rotation: turn about the long axis, degrees.
        shift: the carina's offset from the usual place, millimetres (x, y).
        inspiration: -1 (shallow) … 1 (deep); down to -3 at the bedside.
        margin: how much wider than the body the field is, millimetres.
        aspect: height by width.
        arms: how far the arms hang beside the chest, 0 (out of the field) … 1.
        dose: photons against an average exposure.
        gamma: the tone curve's bend, 1 is straight.
        detail: how much fine contrast the console adds.
        scatter: scattered by primary radiation.
        collimation: border that was not exposed, share of the width, left, top, right, bottom; 0 for none.
        marker: the lead letter, empty for none.
        marker_at: its place, shares of width and height.
        framed: whether a line runs round the letter.
    """

    projection: str
    tilt: float
    rotation: float
    shift: tuple[float, float]
    inspiration: float
    margin: float
    aspect: float
    arms: float
    dose: float
    gamma: float
    detail: float
    scatter: float
    collimation: tuple[float, float, float, float]
    marker: str
    marker_at: tuple[float, float]
    framed: bool


def patient_number(seed: int, index: int) -> int:
    """Return whose image this is, as the index of the patient's first image: one pair of neighbours in five is one."""
    first = index - index % 2
    paired = generator(seed, Stream.PAIRING, first).random() < 0.2
    return first if paired else index


def draw_patient(seed: int, number: int) -> Patient:
    """Return the patient whose first image has this index."""
    rng = generator(seed, Stream.PATIENT, number)
    female = bool(rng.random() < 0.48)
    age = int(np.clip(rng.normal(52, 17), 18, 92))
    habitus = float(np.clip(rng.gamma(3.0, 0.33), 0.3, 2.6))
    size = rng.normal(0.94 if female else 1.02, 0.03)
    return Patient(
        number=number,
        female=female,
        age=age,
        scale_x=float(size * rng.uniform(0.96, 1.04)),
        scale_y=float(size * rng.uniform(0.95, 1.06)),
        depth=float(195 * size + 22 * habitus + rng.normal(0, 8)),
        wall=float(13 + 11 * habitus),
        heart_ratio=float(rng.uniform(0.385, 0.47)),
        knob_radius=float(rng.uniform(12.5, 16.0) + 0.02 * (age - 50)),
        dome=float(rng.uniform(32, 50)),
        dome_step=float(rng.uniform(3, 16)),
        rib_slope=float(rng.normal(1.0, 0.1)),
        bone=float(np.clip(rng.normal(1.12 - 0.004 * (age - 40), 0.08), 0.75, 1.3)),
        breast=float(rng.uniform(16, 48) * (0.7 + 0.3 * habitus)) if female else 0.0,
        stomach=float(rng.uniform(0.5, 1.0)) if rng.random() < 0.7 else 0.0,
        vessel=float(rng.uniform(0.85, 1.2)),
    )


def draw_view(seed: int, index: int, *, bedside: bool = False) -> Positioning:
    """Return the exposure of image ``index``, standing in the department or lying and sitting at the bedside."""
    rng = generator(seed, Stream.VIEW, index)
    projection = "AP" if rng.random() < 0.15 else "PA"
    left, top, right, bottom = (float(v) for v in rng.uniform(0.01, 0.05, 4) * (rng.random(4) < 0.6))
    collimated = rng.random() < 0.3
    lettered = rng.random() < 0.75
    letter = "R" if rng.random() < 0.6 else "L"
    side = rng.uniform(0.05, 0.12)
    view = Positioning(
        projection=projection,
        tilt=float(rng.normal(0, 1.3)),
        rotation=float(rng.normal(0, 2.2)),
        shift=(float(rng.normal(0, 5)), float(rng.normal(0, 7))),
        inspiration=float(np.clip(rng.normal(-0.5 if projection == "AP" else 0.2, 0.45), -1, 1)),
        margin=float(rng.uniform(-22, 26)),
        aspect=float(rng.choice([1.0, 1.0, 1.12, 1.17, 1.2, 1.22, 1.25])),
        arms=float(rng.uniform(0, 1)),
        dose=float(np.exp(rng.normal(0, 0.45))),
        gamma=float(np.exp(rng.normal(0, 0.12))),
        detail=float(rng.uniform(0.75, 1.6)),
        scatter=float(rng.uniform(0.1, 0.3)),
        collimation=(left, top, right, bottom) if collimated else (0.0, 0.0, 0.0, 0.0),
        marker=letter if lettered else "",
        marker_at=(float(side if letter == "R" else 1 - side), float(rng.uniform(0.05, 0.16))),
        framed=bool(rng.random() < 0.5),
    )
    return _at_the_bedside(view, rng) if bedside else view


def _at_the_bedside(view: Positioning, rng: np.random.Generator) -> Positioning:
    """Return a mobile machine's view: AP, a shallow breath, a wide field without a grid, the belly in it."""
    return replace(
        view,
        projection="AP",
        tilt=float(rng.normal(0, 4)),
        rotation=float(rng.normal(0, 6)),
        shift=(float(rng.normal(0, 12)), float(rng.normal(6, 18))),
        inspiration=float(np.clip(rng.normal(-1.2, 0.9), -3, 0.5)),
        margin=float(rng.uniform(-25, 60)),
        aspect=float(rng.choice([0.9, 1.0, 1.0, 1.1])),
        gamma=float(np.exp(rng.normal(-0.35, 0.25))),
        detail=float(rng.uniform(0.4, 1.2)),
        scatter=float(rng.uniform(0.2, 0.7)),
    )
