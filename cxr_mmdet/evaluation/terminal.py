"""Scores as a terminal shows them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich import box
from rich.markup import escape
from rich.table import Table

from cxr_mmdet.evaluation.froc import RATES
from cxr_mmdet.evaluation.headline import of_class, sensitivity_name
from cxr_mmdet.pages import UNDEFINED, format_percent, format_score

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cxr_mmdet.evaluation.bootstrap import Interval
    from cxr_mmdet.evaluation.coco import CocoScores
    from cxr_mmdet.evaluation.comparison import Comparison
    from cxr_mmdet.evaluation.evaluate import Account
    from cxr_mmdet.evaluation.froc import Threshold

NAME_WIDTH = 8
"""Longer names of detectors leave no room for the rows' own names in 80 columns."""

HEADERS = ("AP@[.5:.95]", "AP@.5", "AP@.75", "boxes", "detections")

TITLES = {
    "mean_ap": "mAP@[.5:.95]",
    "mean_ap_50": "mAP@.5",
    "mean_ap_75": "mAP@.75",
    "voc_mean_ap_40": "mAP@.4 (VOC 2010)",
    "voc_mean_ap_40_with_no_finding": "mAP@.4 with No finding",
    **{sensitivity_name(rate): f"sensitivity at {rate:g} FP/image" for rate in RATES},
    "mean_sensitivity": "mean sensitivity, 1/8…8 FP/image",
    "image_auc": "image AUC, abnormal or not",
}
"""What people call the headline numbers."""

SHOWN = (
    "mean_ap",
    "mean_ap_50",
    "mean_ap_75",
    "voc_mean_ap_40",
    "voc_mean_ap_40_with_no_finding",
    sensitivity_name(1),
    "mean_sensitivity",
    "image_auc",
)
"""The headline numbers of a first table."""


def metrics_table(scores: CocoScores) -> Table:
    """Return a table of the classes in label order, their mean as its last row and the headline as its title.

    It fits 80 columns; a score that is undefined (a class without boxes) is shown as n/a.
    """
    table = _table(headline(scores), *HEADERS)
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


def headline_table(account: Account) -> Table:
    """Return the headline numbers with their intervals and, where it is known, how much of the readers' they reach."""
    ceiling = account.ceiling
    table = _table("All findings", "value", "95 % interval", *(["readers", "reached"] if ceiling else []))
    for name in SHOWN:
        interval = account.values[name]
        row = [TITLES[name], format_score(interval.value), format_ends(interval)]
        if ceiling:
            own = ceiling.values.get(name)
            row += ["" if own is None else format_score(own.value)]
            row += ["" if own is None else format_percent(ceiling.reached(name, interval.value))]
        table.add_row(*row)
    return table


def comparison_table(comparison: Comparison) -> Table:
    """Return the headline numbers of two detectors, their difference and its p-value."""
    return _differences("All findings", comparison, [(TITLES[name], name) for name in SHOWN])


def class_comparison_table(comparison: Comparison) -> Table:
    """Return each class's average precision at IoU 0.4 by two detectors."""
    rows = [(label, of_class("voc_ap_40", place)) for place, label in enumerate(comparison.classes)]
    return _differences("AP@.4 (VOC 2010) by finding", comparison, rows)


def thresholds_table(title: str, thresholds: Sequence[Threshold]) -> Table:
    """Return the threshold of each class and what it gives."""
    table = _table(title, "threshold", "sensitivity", "FP/image")
    for entry in thresholds:
        printed = UNDEFINED if entry.printed is None else entry.printed
        table.add_row(entry.name, printed, format_score(entry.sensitivity), format_score(entry.false_positives))
    if any(entry.score is None for entry in thresholds):
        table.caption, table.caption_justify = f"{UNDEFINED}: no score of this class does it.", "left"
    return table


def operating_note(account: Account) -> str:
    """Return the operating threshold, or that there is none, as a sentence."""
    if account.printed_threshold is None:
        return (
            "Operating threshold: none, since nothing is found at one false positive per image or fewer; the confusion "
            "matrix and the pictures show no detection."
        )
    return f"Operating threshold: {account.printed_threshold}; this score and above."


def format_ends(interval: Interval) -> str:
    """Return the ends of an interval, or nothing where there is none."""
    return "" if interval.low is None else f"{format_score(interval.low)}…{format_score(interval.high)}"


def _differences(title: str, comparison: Comparison, rows: Sequence[tuple[str, str]]) -> Table:
    names = comparison.names
    if max(map(len, names)) > NAME_WIDTH:
        title, names = f"{title}\nA: {names[0]}\nB: {names[1]}", ("A", "B")
    table = _table(escape(title), *map(escape, names), "difference", "95 % interval", "p")
    for label, name in rows:
        entry = comparison.values[name]
        difference = entry.difference.value
        ends = (entry.difference.low, entry.difference.high)
        table.add_row(
            label,
            format_score(entry.first.value),
            format_score(entry.second.value),
            "n/a" if difference is None else f"{difference:+.3f}",
            "" if ends[0] is None or ends[1] is None else f"{ends[0]:+.3f}…{ends[1]:+.3f}",
            format_score(entry.p),
        )
    return table


def _table(title: str, *headers: str) -> Table:
    table = Table(title=title, title_style="bold", title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("finding" if headers == HEADERS else "", overflow="fold")
    for header in headers:
        table.add_column(header, justify="right", no_wrap=True)
    return table
