"""Simulated readers: a pool of named readers who jitter boxes, miss findings, confuse classes and mark false ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cxr_mmdet.phantom.cases import FREQUENCY
from cxr_mmdet.phantom.measured_readers import habits_of
from cxr_mmdet.phantom.patient import Stream, generator
from cxr_mmdet.structures.boxes import clip_to_image
from cxr_mmdet.structures.enums import PhantomReaders

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cxr_mmdet.phantom.measured_readers import Habit
    from cxr_mmdet.phantom.render import DrawnFinding, Phantom

POOL = tuple(f"R{number}" for number in range(1, 18))

_REGULARS = ("R8", "R9", "R10")
_REGULARS_SHARE = 0.944
"""Of VinBigData's abnormal images, read by these three together."""

# VinBigData's readings without a box: who reads the healthy.
_NORMAL_READINGS = {
    "R1": 1995, "R2": 3118, "R3": 2285, "R4": 1513, "R5": 2783, "R6": 2041, "R7": 1733, "R8": 2436, "R9": 1979,
    "R10": 2321, "R11": 1413, "R12": 1580, "R13": 1505, "R14": 1300, "R15": 1508, "R16": 1565, "R17": 743,
}  # fmt: skip

# Chance that an average reader marks a finding of middling severity.
_SEEN = {
    "Aortic enlargement": 0.94, "Atelectasis": 0.80, "Calcification": 0.76, "Cardiomegaly": 0.95,
    "Consolidation": 0.86, "ILD": 0.90, "Infiltration": 0.88, "Lung Opacity": 0.78, "Nodule/Mass": 0.88,
    "Other lesion": 0.74, "Pleural effusion": 0.90, "Pleural thickening": 0.78, "Pneumothorax": 0.92,
    "Pulmonary fibrosis": 0.85,
}  # fmt: skip

# How loosely a class is outlined, against a nodule.
_LOOSE = {"ILD": 1.5, "Infiltration": 1.6, "Lung Opacity": 1.7, "Consolidation": 1.4, "Pulmonary fibrosis": 1.5,
          "Pleural effusion": 1.5, "Atelectasis": 1.5, "Pneumothorax": 1.3}  # fmt: skip

SEVERITY_PULL = 1.5
"""Range of the log odds that measured readers see a finding, from the mildest to the most severe."""

_CONFUSED = (
    ("Consolidation", "Infiltration", "Lung Opacity"),
    ("Calcification", "Nodule/Mass", "Other lesion"),
    ("ILD", "Pulmonary fibrosis"),
    ("Pleural effusion", "Pleural thickening"),
)

_IMAGINED = ("Calcification", "Infiltration", "Lung Opacity", "Nodule/Mass", "Other lesion", "Pulmonary fibrosis")
"""Classes of false marks: small and vague findings."""


@dataclass(frozen=True)
class Reader:
    """One radiologist's habits.

    Attributes:
        name: R1…R17.
        keenness: shift of the log-odds to see a finding.
        jitter: deviation of a box's edge, share of its side.
        generosity: how much wider than the finding the boxes are, share of their side.
        fancy: false boxes an abnormal image.
        slip: chance to name the wrong class of a related group.
        habits: measured habits of each class, which stand for the reader's own keenness, jitter, generosity and fancy.
    """

    name: str
    keenness: float
    jitter: float
    generosity: float
    fancy: float
    slip: float
    habits: Mapping[str, Habit] | None = None


@dataclass(frozen=True)
class Mark:
    """One box of one reader: absolute pixels, whole numbers."""

    reader: str
    label: str
    box_xyxy: tuple[float, float, float, float]


@dataclass(frozen=True)
class ReaderMarks:
    """One reader's result; no marks means "No finding"."""

    reader: str
    marks: tuple[Mark, ...]


def draw_pool(seed: int, kind: PhantomReaders = PhantomReaders.PLAIN) -> dict[str, Reader]:
    """Return the readers of a set, by name.

    Args:
        seed: of the set.
        kind: ``plain`` agree more than real readers; ``vinbigdata`` disagree as those of VinBigData's table do.
    """
    pool = {}
    for number, name in enumerate(POOL):
        rng = generator(seed, Stream.POOL, number)
        pool[name] = Reader(
            name=name,
            keenness=float(rng.normal(0.0, 0.35)),
            jitter=float(rng.uniform(0.025, 0.05)),
            generosity=float(rng.normal(0.02, 0.02)),
            fancy=float(rng.uniform(0.01, 0.07)),
            slip=float(rng.uniform(0.01, 0.05)),
            habits=habits_of(name) if kind is PhantomReaders.VINBIGDATA else None,
        )
    return pool


def read(phantom: Phantom, pool: dict[str, Reader], *, readers: int, labels: Sequence[str]) -> list[ReaderMarks]:
    """Return the readings of one image, by as many readers of the pool.

    Args:
        phantom: the image with its true boxes.
        pool: from :func:`draw_pool`.
        readers: how many, 1…17.
        labels: the classes the readers know.
    """
    case = phantom.case
    rng = generator(case.seed, Stream.READERS, case.index)
    height, width = phantom.image.shape
    names = _assigned(rng, readers, abnormal=bool(phantom.findings))
    return [_reading(rng, pool[name], phantom.findings, (height, width), labels) for name in names]


def _assigned(rng: np.random.Generator, readers: int, *, abnormal: bool) -> list[str]:
    """Return who reads the image: the three regulars nearly all abnormal ones, anyone the others."""
    weights = np.array([_NORMAL_READINGS[name] for name in POOL], dtype=np.float64)
    order = [POOL[i] for i in rng.choice(len(POOL), len(POOL), replace=False, p=weights / weights.sum())]
    if abnormal:
        regular = rng.random() < _REGULARS_SHARE
        order.sort(key=lambda name: (name in _REGULARS) != regular)
    return sorted(order[:readers], key=POOL.index)


def _reading(
    rng: np.random.Generator,
    reader: Reader,
    findings: Sequence[DrawnFinding],
    size_hw: tuple[int, int],
    labels: Sequence[str],
) -> ReaderMarks:
    marks = [
        Mark(reader.name, _named(rng, reader, finding.label, labels), _jittered(rng, reader, finding, size_hw))
        for finding in findings
        if rng.random() < _chance_to_see(reader, finding)
    ]
    if reader.habits:
        marks += _false_marks(rng, reader, reader.habits, findings, size_hw, labels)
    elif findings and rng.random() < reader.fancy:
        weights = np.array([FREQUENCY[label] for label in _IMAGINED])
        label = _IMAGINED[int(rng.choice(len(_IMAGINED), p=weights / weights.sum()))]
        box = _imagined_box(rng, size_hw)
        marks += [Mark(reader.name, label, box)] if label in labels else []
    return ReaderMarks(reader.name, tuple(marks))


def _chance_to_see(reader: Reader, finding: DrawnFinding) -> float:
    if reader.habits:
        # The severity parts what all readers see from what few see, around the measured share.
        seen = reader.habits[finding.label].sensitivity
        odds = np.log(seen / (1 - seen)) + SEVERITY_PULL * (finding.severity - 0.5)
        return float(1 / (1 + np.exp(-odds)))
    seen = _SEEN[finding.label]
    odds = np.log(seen / (1 - seen)) + reader.keenness + 3.0 * (finding.severity - 0.5)
    return float(1 / (1 + np.exp(-odds)))


def _named(rng: np.random.Generator, reader: Reader, label: str, labels: Sequence[str]) -> str:
    related = [other for group in _CONFUSED if label in group for other in group if other != label and other in labels]
    slipped = rng.random() < reader.slip
    return str(rng.choice(related)) if slipped and related else label


def _jittered(
    rng: np.random.Generator, reader: Reader, finding: DrawnFinding, size_hw: tuple[int, int]
) -> tuple[float, float, float, float]:
    box = np.asarray(finding.box_xyxy)
    sides = np.tile(box[2:] - box[:2], 2)
    if reader.habits:
        habit = reader.habits[finding.label]
        outwards = np.array([-habit.wider, -habit.taller, habit.wider, habit.taller]) / 2
        return _whole(box + sides * (outwards + rng.normal(0, habit.spread, 4)), size_hw)
    spread = reader.jitter * _LOOSE.get(finding.label, 1.0)
    outwards = np.array([-1, -1, 1, 1]) * reader.generosity
    return _whole(box + sides * (outwards + rng.normal(0, spread, 4)), size_hw)


def _false_marks(
    rng: np.random.Generator,
    reader: Reader,
    habits: Mapping[str, Habit],
    findings: Sequence[DrawnFinding],
    size_hw: tuple[int, int],
    labels: Sequence[str],
) -> list[Mark]:
    """Return the reader's false marks of every class; as in the real table, only on images with findings."""
    counts = {label: rng.poisson(habits[label].false_marks * FREQUENCY[label]) for label in habits}
    return [
        Mark(reader.name, label, _imagined_box(rng, size_hw))
        for label, count in counts.items()
        for _ in range(count if findings else 0)
        if label in labels
    ]


def _imagined_box(rng: np.random.Generator, size_hw: tuple[int, int]) -> tuple[float, float, float, float]:
    """Return a box somewhere over the lungs, 4 to 12 % of the image wide."""
    height, width = size_hw
    center = np.array([rng.choice([0.3, 0.7]) + rng.uniform(-0.1, 0.1), rng.uniform(0.28, 0.6)]) * (width, height)
    half = rng.uniform(0.02, 0.06, 2) * width
    return _whole(np.concatenate([center - half, center + half]), size_hw)


def _whole(box: np.ndarray, size_hw: tuple[int, int]) -> tuple[float, float, float, float]:
    """Return the box in whole pixels inside the image, at least two pixels wide and high."""
    height, width = size_hw
    x_min, y_min, x_max, y_max = np.round(clip_to_image(box, size_hw)[0])
    x_min, y_min = min(x_min, width - 2), min(y_min, height - 2)
    return float(x_min), float(y_min), float(max(x_max, x_min + 2)), float(max(y_max, y_min + 2))
