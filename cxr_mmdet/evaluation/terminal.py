"""Scores as tables on a terminal."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from cxr_mmdet.errors import counted
from cxr_mmdet.evaluation.froc import RATES
from cxr_mmdet.evaluation.headline import of_class, sensitivity_name
from cxr_mmdet.pages import UNDEFINED, format_number, format_percent, format_score

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cxr_mmdet.evaluation.bootstrap import Interval
    from cxr_mmdet.evaluation.coco import CocoScores
    from cxr_mmdet.evaluation.comparison import Comparison
    from cxr_mmdet.evaluation.evaluate import EvaluationResult
    from cxr_mmdet.evaluation.froc import Threshold
    from cxr_mmdet.evaluation.voc import ThresholdScores

NAME_WIDTH = 8
"""Characters; longer names of detectors leave no room for the names of the rows in 80 columns."""

NO_THRESHOLD = (
    "Operating threshold: none, because nothing is hit at one false positive per image or fewer; no detection counts "
    "in the table above, the confusion matrix and the images."
)
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
"""Titles of the headline numbers."""

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


def result_tables(result: EvaluationResult) -> list[Table | Text]:
    """Return everything that ``evaluate run`` prints of a detector, in order."""
    tables: list[Table | Text] = [metrics_table(result.coco), headline_table(result), threshold_table(result)]
    return tables if result.score_threshold is not None else [*tables, Text(NO_THRESHOLD)]


def summarise(result: EvaluationResult) -> str:
    """Return :func:`result_tables` as plain text of 80 columns."""
    console = Console(width=80, file=io.StringIO(), record=True)
    for part in result_tables(result):
        console.print(part)
    return console.export_text()


def describe(result: EvaluationResult) -> str:
    """Return the size of the data set and the three best known numbers in one line."""
    names = ("mean_ap", "mean_ap_50", "voc_mean_ap_40")
    numbers = ", ".join(f"{TITLES[name]} {format_score(result.values[name].value)}" for name in names)
    return f"{describe_counts(result.coco)}: {numbers}"


def describe_counts(coco: CocoScores) -> str:
    """Return the numbers of images, boxes and detections in words."""
    boxes = counted(coco.ground_truth_boxes, "box")
    return f"{counted(coco.images, 'image')}, {boxes}, {counted(coco.detections, 'detection')}"


def ap_title(iou_threshold: float) -> str:
    """Return the name of an average precision at one IoU, as ``AP@.4``."""
    return f"AP@{iou_threshold:g}".replace("@0.", "@.")


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
    """Return COCO's two best known numbers and the number of images."""
    return (
        f"mAP@[.5:.95] {format_score(scores.mean_ap)}   mAP@.5 {format_score(scores.mean_ap_50)}   "
        f"({counted(scores.images, 'image')})"
    )


def headline_table(result: EvaluationResult) -> Table:
    """Return the headline numbers with their intervals, beside the readers' own where they are known."""
    ceiling = result.ceiling
    table = _table("All findings", "value", "95 % interval", *(["readers", "reached"] if ceiling else []))
    for name in SHOWN:
        interval = result.values[name]
        row = [TITLES[name], format_score(interval.value), format_ends(interval)]
        if ceiling:
            own = ceiling.values.get(name)
            row += ["" if own is None else format_score(own.value)]
            row += ["" if own is None else format_percent(ceiling.reached(name, interval.value))]
        table.add_row(*row)
    return table


def threshold_table(result: EvaluationResult) -> Table:
    """Return precision, recall and F1 of each class and over all at the operating threshold."""
    iou = result.voc.iou_threshold
    score = "no score" if result.printed_threshold is None else f"score {result.printed_threshold} and above"
    title = f"At {score}, IoU above {iou:g}   m{ap_title(iou)} {format_score(result.voc.mean_ap)}"
    table = _table(title, "precision", "recall", "F1", "hits", "false", "missed")
    for scores in result.class_scores:
        table.add_row(*_threshold_cells(scores.name, scores))
    table.add_section()
    table.add_row(*_threshold_cells("all findings", result.overall_scores), style="bold")
    return table


def _threshold_cells(name: str, scores: ThresholdScores) -> list[str]:
    shares = (scores.precision, scores.recall, scores.f1)
    counts = (scores.true_positives, scores.false_positives, scores.false_negatives)
    return [name, *map(format_score, shares), *map(format_number, counts)]


def comparison_table(comparison: Comparison) -> Table:
    """Return the headline numbers of two detectors, their difference and its p-value."""
    return _differences("All findings", comparison, [(TITLES[name], name) for name in SHOWN])


def class_comparison_table(comparison: Comparison) -> Table:
    """Return each class's average precision at IoU 0.4 by two detectors."""
    rows = [(label, of_class("voc_ap_40", place)) for place, label in enumerate(comparison.classes)]
    return _differences("AP@.4 (VOC 2010) by finding", comparison, rows)


def thresholds_table(title: str, thresholds: Sequence[Threshold]) -> Table:
    """Return each class's threshold with its sensitivity and false positives."""
    table = _table(title, "threshold", "sensitivity", "FP/image")
    for entry in thresholds:
        printed = UNDEFINED if entry.printed is None else entry.printed
        table.add_row(entry.name, printed, format_score(entry.sensitivity), format_score(entry.false_positives))
    if any(entry.score is None for entry in thresholds):
        table.caption, table.caption_justify = f"{UNDEFINED}: no score of this class reaches the goal.", "left"
    return table


def format_ends(interval: Interval) -> str:
    """Return the ends of an interval, or an empty text where there is none."""
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
