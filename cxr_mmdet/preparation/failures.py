"""``failures.csv``: the radiographs that could not be prepared, each with its reason."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cxr_mmdet.files import SpreadsheetWriter, atomic_path

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from cxr_mmdet.preparation.images import Failure

FAILURES_NAME = "failures.csv"


def write_failures(path: Path, failures: Sequence[Failure]) -> None:
    """Write one row a failure; without any, an earlier run's file is removed."""
    if not failures:
        path.unlink(missing_ok=True)
        return
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = SpreadsheetWriter(file)
        writer.writerow(["image_id", "reason"])
        writer.writerows([failure.image_id, failure.reason] for failure in failures)
