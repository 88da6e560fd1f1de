"""Habits of VinBigData's readers, measured on its table by ``cxr_mmdet.annotations.readers``: averages, no reading."""

from __future__ import annotations

from typing import NamedTuple


class Habit(NamedTuple):
    """Habits of a reader with one class.

    Attributes:
        sensitivity: share of the findings that they mark.
        false_marks: false marks per finding of the class on the images they read.
        spread: deviation of a side, share of the box.
        wider: how much wider than the other readers they draw, share of the box.
        taller: likewise.
    """

    sensitivity: float
    false_marks: float
    spread: float
    wider: float
    taller: float


REGULARS = ("R8", "R9", "R10")
"""Readers with columns of their own; everybody else has the last one."""

_TABLE = {
    "Aortic enlargement": (
        (0.85, 0.03, 0.085, -0.02, 0.07),
        (0.91, 0.18, 0.084, 0.05, 0.0),
        (0.9, 0.1, 0.1, -0.03, -0.07),
        (0.88, 0.11, 0.091, 0.0, 0.0),
    ),
    "Atelectasis": (
        (0.49, 0.19, 0.116, 0.0, 0.04),
        (0.57, 0.67, 0.099, 0.0, 0.01),
        (0.63, 1.12, 0.099, 0.0, -0.04),
        (0.52, 0.63, 0.107, 0.0, 0.0),
    ),
    "Calcification": (
        (0.52, 0.37, 0.095, -0.01, -0.02),
        (0.5, 0.34, 0.101, 0.02, -0.01),
        (0.3, 0.1, 0.094, -0.01, 0.03),
        (0.44, 0.24, 0.101, 0.0, 0.0),
    ),
    "Cardiomegaly": (
        (0.9, 0.07, 0.061, 0.0, 0.07),
        (0.84, 0.07, 0.083, 0.01, -0.05),
        (0.92, 0.08, 0.083, 0.0, -0.03),
        (0.88, 0.08, 0.076, 0.0, 0.0),
    ),
    "Consolidation": (
        (0.64, 0.44, 0.1, -0.01, 0.0),
        (0.51, 0.45, 0.093, 0.02, 0.01),
        (0.29, 0.16, 0.089, -0.01, -0.01),
        (0.45, 0.3, 0.096, 0.0, 0.0),
    ),
    "ILD": (
        (0.84, 0.51, 0.095, 0.03, 0.02),
        (0.78, 0.52, 0.118, 0.01, -0.02),
        (0.6, 0.39, 0.112, -0.05, 0.0),
        (0.7, 0.5, 0.108, 0.0, 0.0),
    ),
    "Infiltration": (
        (0.66, 0.58, 0.102, 0.02, -0.01),
        (0.68, 0.64, 0.107, 0.02, 0.02),
        (0.58, 0.44, 0.109, -0.05, -0.02),
        (0.63, 0.52, 0.106, 0.0, 0.0),
    ),
    "Lung Opacity": (
        (0.28, 0.16, 0.109, 0.03, 0.04),
        (0.62, 0.49, 0.106, 0.01, 0.01),
        (0.54, 0.45, 0.111, -0.03, -0.03),
        (0.44, 0.31, 0.109, 0.0, 0.0),
    ),
    "Nodule/Mass": (
        (0.53, 0.44, 0.069, -0.02, 0.0),
        (0.71, 0.41, 0.094, 0.02, 0.01),
        (0.66, 0.46, 0.085, -0.01, -0.01),
        (0.63, 0.43, 0.085, 0.0, 0.0),
    ),
    "Other lesion": (
        (0.44, 0.32, 0.101, -0.01, -0.01),
        (0.6, 1.14, 0.125, 0.0, 0.02),
        (0.57, 0.61, 0.112, 0.01, -0.01),
        (0.53, 0.67, 0.113, 0.0, 0.0),
    ),
    "Pleural effusion": (
        (0.64, 0.18, 0.112, 0.04, -0.1),
        (0.81, 0.71, 0.124, -0.01, 0.04),
        (0.78, 0.37, 0.131, -0.02, 0.04),
        (0.73, 0.42, 0.123, 0.0, 0.0),
    ),
    "Pleural thickening": (
        (0.51, 0.27, 0.119, 0.01, 0.0),
        (0.65, 1.11, 0.141, 0.0, 0.0),
        (0.5, 0.35, 0.135, -0.01, -0.01),
        (0.54, 0.56, 0.132, 0.0, 0.0),
    ),
    "Pneumothorax": (
        (0.89, 0.22, 0.077, 0.0, 0.0),
        (0.85, 0.32, 0.083, 0.02, 0.02),
        (0.76, 0.39, 0.086, -0.02, -0.02),
        (0.82, 0.32, 0.085, 0.0, 0.0),
    ),
    "Pulmonary fibrosis": (
        (0.69, 0.28, 0.113, 0.02, 0.01),
        (0.7, 0.56, 0.126, 0.01, 0.01),
        (0.65, 0.35, 0.116, -0.03, -0.02),
        (0.68, 0.41, 0.118, 0.0, 0.0),
    ),
}


def habits_of(reader: str) -> dict[str, Habit]:
    """Return the habits of a reader by class."""
    column = REGULARS.index(reader) if reader in REGULARS else len(REGULARS)
    return {label: Habit(*columns[column]) for label, columns in _TABLE.items()}
