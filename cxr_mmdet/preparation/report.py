"""``report.html`` of a prepared folder."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

REPORT_NAME = "report.html"


def write_report(folder: Path) -> Path:
    """Write it."""
    return folder / REPORT_NAME
