"""Findings per image: a healthy chest, or findings with the frequencies and co-occurrence of VinBigData."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING

from cxr_mmdet.phantom.patient import Stream, draw_patient, draw_view, generator, patient_number

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np

    from cxr_mmdet.phantom.patient import Patient, Positioning

FREQUENCY = {
    "Aortic enlargement": 0.698,
    "Atelectasis": 0.042,
    "Calcification": 0.103,
    "Cardiomegaly": 0.523,
    "Consolidation": 0.080,
    "ILD": 0.088,
    "Infiltration": 0.140,
    "Lung Opacity": 0.301,
    "Nodule/Mass": 0.188,
    "Other lesion": 0.258,
    "Pleural effusion": 0.235,
    "Pleural thickening": 0.451,
    "Pneumothorax": 0.022,
    "Pulmonary fibrosis": 0.368,
}
"""Share of VinBigData's 4394 abnormal training images on which any reader marked the class."""

BEDSIDE_FREQUENCY = {
    **{label: share for label, share in FREQUENCY.items() if label not in ("Consolidation", "Infiltration")},
    "Lung Opacity": 0.75,
}
"""The same at the bedside, where readers call every filled air space an opacity."""

# What tends to come together, and how tightly (correlation with the group's hidden cause).
_GROUPS = {
    "heart": {"Aortic enlargement": 0.6, "Cardiomegaly": 0.6},
    "acute": {"Atelectasis": 0.4, "Consolidation": 0.6, "Infiltration": 0.5, "Lung Opacity": 0.5,
              "Pleural effusion": 0.5},
    "scars": {"Calcification": 0.4, "ILD": 0.3, "Pleural thickening": 0.6, "Pulmonary fibrosis": 0.6},
}  # fmt: skip

_AGE_MEAN, _AGE_SPREAD, _AGE_PULL = 52.0, 17.0, 0.5
_GOLDEN = (math.sqrt(5) - 1) / 2


@dataclass(frozen=True)
class PlannedFinding:
    """Finding to draw.

    Attributes:
        label: one of the 14 names.
        severity: 0 (hardly visible) … 1 (gross).
        key: its own source of chance.
    """

    label: str
    severity: float
    key: int


@dataclass(frozen=True)
class PhantomCase:
    """Everything that decides one image; equal cases give equal images.

    Attributes:
        seed: of the whole set.
        index: from 0.
        patient: the build.
        view: the exposure.
        findings: to draw.
        bedside: whether an opacity is a pneumonia, large and on both sides in most patients.
    """

    seed: int
    index: int
    patient: Patient
    view: Positioning
    findings: tuple[PlannedFinding, ...]
    bedside: bool = False


def plan_case(
    seed: int, index: int, *, abnormal_share: float, labels: Sequence[str], bedside_share: float = 0.0
) -> PhantomCase:
    """Return the case of image ``index``; it depends on no other image.

    Images of one patient share build and diseases, and differ in the exposure.

    Args:
        seed: of the whole set.
        index: from 0.
        abnormal_share: probability that a patient has findings; kept closely even in small sets.
        labels: findings that may occur.
        bedside_share: probability that a patient is imaged at the bedside.
    """
    number = patient_number(seed, index)
    bedside = bool(generator(seed, Stream.BEDSIDE, number).random() < bedside_share)
    patient = draw_patient(seed, number)
    findings: tuple[PlannedFinding, ...] = ()
    if labels and _is_abnormal(seed, number, abnormal_share):
        findings = _draw_findings(seed, patient, labels, BEDSIDE_FREQUENCY if bedside else FREQUENCY)
    return PhantomCase(seed, index, patient, draw_view(seed, index, bedside=bedside), findings, bedside)


def _is_abnormal(seed: int, number: int, share: float) -> bool:
    """Return whether this patient is ill; a golden-ratio sequence spreads the ill evenly over the numbers."""
    start = generator(seed, Stream.PLAN).random()
    return (start + number * _GOLDEN) % 1.0 < share


def _draw_findings(
    seed: int, patient: Patient, labels: Sequence[str], frequency: Mapping[str, float]
) -> tuple[PlannedFinding, ...]:
    rng = generator(seed, Stream.PLAN, patient.number)
    chosen: list[str] = []
    # With rare labels only, most draws hold none: then an ill patient gets one of them, by frequency.
    for _ in range(8):
        chosen = [label for label in _present(rng, patient, frequency) if label in labels]
        if chosen:
            break
    else:
        weights = [FREQUENCY[label] for label in labels]
        chosen = [str(rng.choice(list(labels), p=[weight / sum(weights) for weight in weights]))]
    return tuple(PlannedFinding(label, float(rng.beta(2.2, 1.7)), key) for key, label in enumerate(chosen))


def _present(rng: np.random.Generator, patient: Patient, frequency: Mapping[str, float]) -> list[str]:
    """Return the labels drawn together: every class keeps its frequency, classes of a group come together."""
    causes = {group: rng.standard_normal() for group in _GROUPS}
    age = (patient.age - _AGE_MEAN) / _AGE_SPREAD
    causes["heart"] = math.sqrt(1 - _AGE_PULL**2) * causes["heart"] - _AGE_PULL * age
    present = []
    for label, share in frequency.items():
        own = rng.standard_normal()
        for group, members in _GROUPS.items():
            if label in members:
                own = members[label] * causes[group] + math.sqrt(1 - members[label] ** 2) * own
        if own < NormalDist().inv_cdf(share):
            present.append(label)
    return present
