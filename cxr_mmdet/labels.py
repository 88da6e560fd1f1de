"""The label sets: which findings exist, in which order, and where a user's own set comes from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cxr_mmdet.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable

LABELS_14 = (
    "Aortic enlargement",
    "Atelectasis",
    "Calcification",
    "Cardiomegaly",
    "Consolidation",
    "ILD",
    "Infiltration",
    "Lung Opacity",
    "Nodule/Mass",
    "Other lesion",
    "Pleural effusion",
    "Pleural thickening",
    "Pneumothorax",
    "Pulmonary fibrosis",
)
"""VinBigData's findings; the index is the competition's ``class_id``."""

LABELS_5 = ("Aortic enlargement", "Cardiomegaly", "ILD", "Infiltration", "Nodule/Mass")
"""The reference project's reduced set."""

MINORITY_LABELS_5 = ("ILD", "Infiltration", "Nodule/Mass")
"""The classes whose radiographs the reference project flips and rotates."""

NO_FINDING = "No finding"
NO_FINDING_ID = 14


def resolve_labels(spec: str, names_in_table: Iterable[str]) -> tuple[str, ...]:
    """Return the label set that ``spec`` names, in training order.

    Args:
        spec: ``14``, ``5``, ``auto`` (the classes of the table, by class id where it has one, as the caller orders
            them) or the path of a text file with one class name a line; blank lines and ``#`` comments are skipped.
        names_in_table: class names as they occur in the readers' table, in the order ``auto`` shall use.

    Raises:
        UsageError: the file is missing, empty, or names a class twice.
    """
    if spec == "14":
        return LABELS_14
    if spec == "5":
        return LABELS_5
    if spec == "auto":
        names = tuple(dict.fromkeys(name for name in names_in_table if name != NO_FINDING))
        if not names:
            raise UsageError(
                "--labels auto found no class in the table, only 'No finding'; name the classes in a file."
            )
        return names
    path = Path(spec)
    if not path.is_file():
        raise UsageError(f"--labels {spec}: neither 14, 5 nor auto, and no such file; write one class name a line.")
    lines = (line.split("#", 1)[0].strip() for line in path.read_text(encoding="utf-8-sig").splitlines())
    names = tuple(line for line in lines if line)
    if not names:
        raise UsageError(f"{path}: holds no class name; write one a line.")
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise UsageError(f"{path}: names {', '.join(repeated)} more than once; each class stands on one line.")
    if NO_FINDING in names:
        raise UsageError(f"{path}: '{NO_FINDING}' is the absence of boxes, not a class to draw; remove the line.")
    return names
