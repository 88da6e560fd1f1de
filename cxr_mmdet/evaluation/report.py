"""Scores as tables for a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich import box
from rich.table import Table

if TYPE_CHECKING:
    from cxr_mmdet.evaluation.coco import CocoScores

UNDEFINED = "n/a"
HEADERS = ("AP@[.5:.95]", "AP@.5", "AP@.75", "boxes", "detections")


def metrics_table(scores: CocoScores) -> Table:
    """Return a table of the classes in label order, their mean as its last row and the headline as its title.

    It fits 80 columns; a score that is undefined (a class without boxes) is shown as n/a.
    """
    table = Table(title=headline(scores), title_style="bold", title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("finding", overflow="fold")
    for header in HEADERS:
        table.add_column(header, justify="right", no_wrap=True)
    for row in scores.per_class:
        values = (row.ap, row.ap_50, row.ap_75)
        table.add_row(row.name, *map(format_score, values), str(row.ground_truth_boxes), str(row.detections))
    table.add_section()
    values = (scores.mean_ap, scores.mean_ap_50, scores.mean_ap_75)
    counts = (str(scores.ground_truth_boxes), str(scores.detections))
    table.add_row("mean of findings", *map(format_score, values), *counts, style="bold")
    return table


def headline(scores: CocoScores) -> str:
    """Return the two numbers everybody asks for, and over how many images."""
    return (
        f"mAP@[.5:.95] {format_score(scores.mean_ap)}   mAP@.5 {format_score(scores.mean_ap_50)}   "
        f"({scores.images} images)"
    )


def format_score(score: float | None) -> str:
    """Return three decimals, or n/a for what is undefined."""
    return UNDEFINED if score is None else f"{score:.3f}"
