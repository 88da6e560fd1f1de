"""Curves of a report for pages that are light or dark, wide or narrow."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

import numpy as np

from cxr_mmdet.drawing import class_style
from cxr_mmdet.evaluation.froc import RATES, froc_curve
from cxr_mmdet.evaluation.headline import of_class, sensitivity_name
from cxr_mmdet.evaluation.image_level import roc_auc, roc_curve
from cxr_mmdet.evaluation.voc import COMPETITION_IOU, as_weights, operating_points
from cxr_mmdet.pages import INK, figure_svg, format_score

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from markupsafe import Markup
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from cxr_mmdet.evaluation.bootstrap import Interval
    from cxr_mmdet.evaluation.comparison import Comparison
    from cxr_mmdet.evaluation.error_analysis import Calibration
    from cxr_mmdet.evaluation.froc import FrocCurve
    from cxr_mmdet.evaluation.headline import MatchedDetections
    from cxr_mmdet.evaluation.matching import ClassMatches

SIZE = (4.8, 3.7)
"""Inches, about the width of a phone at 72 dots per inch, so that letters keep their size there."""
_LABEL_CHARACTERS, _TITLE_CHARACTERS = 24, 48
"""Length of a line beside and below the axes; longer names are wrapped, else they leave no room for the axes."""
FIRST_COLOR, SECOND_COLOR = INK["text"], INK["accent"]


def precision_recall(matches: Sequence[ClassMatches], iou_threshold: float = COMPETITION_IOU) -> Markup:
    """Return the precision envelope over recall of each class, whose area is the average precision."""
    figure, axes = _grid("recall (sensitivity)", "precision")
    for label, entry in enumerate(matches):
        if not entry.hits.any():
            continue
        points = operating_points(entry, as_weights(None, len(entry.positives)))
        recall, counted = points.hits[:, 0] / entry.boxes, points.hits[:, 0] + points.false_positives[:, 0]
        precision = np.maximum.accumulate((points.hits[:, 0] / counted)[::-1])[::-1]
        # A staircase that falls to 0 after the last box found.
        x = np.concatenate([[0], recall, recall[-1:]])
        y = np.concatenate([precision[:1], precision, [0]])
        _class_line(axes, label, x, y, steps="steps-pre")
    axes.set(xlim=(0, 1), ylim=(0, 1.02))
    return figure_svg(figure, f"Precision over recall of each finding at IoU above {iou_threshold:g}")


def froc(matched: MatchedDetections, values: Mapping[str, Interval]) -> Markup:
    """Return the FROC curve of each class, and of all in a thick line with the intervals of its seven numbers."""
    figure, axes = _grid("false positives per image", "sensitivity")
    for label, entry in enumerate(matched.froc):
        if entry.boxes:
            _class_line(axes, label, *_staircase(froc_curve(entry)), steps="steps-post")
    if matched.pooled.boxes:
        _pooled_line(axes, matched, FIRST_COLOR)
        _bars(axes, values, FIRST_COLOR)
    _rates_axis(axes)
    return figure_svg(figure, "Sensitivity over false positives per image, of each finding and of all")


def compare_froc(first: MatchedDetections, second: MatchedDetections, comparison: Comparison) -> Markup:
    """Return the FROC curves of two detectors over all findings."""
    figure, axes = _grid("false positives per image", "sensitivity")
    for matched, color, which in ((first, FIRST_COLOR, "first"), (second, SECOND_COLOR, "second")):
        if matched.pooled.boxes:
            _pooled_line(axes, matched, color)
            _bars(axes, {name: getattr(entry, which) for name, entry in comparison.values.items()}, color)
    _rates_axis(axes)
    return figure_svg(figure, f"Sensitivity over false positives per image of {' and '.join(comparison.names)}")


def class_differences(comparison: Comparison) -> Markup:
    """Return each class's difference in average precision at IoU 0.4 with its interval."""
    rows = [
        (place, label, comparison.values[of_class("voc_ap_40", place)].difference)
        for place, label in enumerate(comparison.classes)
    ]
    rows = [row for row in rows if row[2].value is not None]
    labels = [textwrap.fill(label, _LABEL_CHARACTERS) for _, label, _ in rows]
    title = textwrap.fill(f"AP@.4 of {comparison.names[1]} minus {comparison.names[0]}", _TITLE_CHARACTERS)
    lines = max([1, *(label.count("\n") + 1 for label in labels)])
    figure, axes = _figure((SIZE[0], 0.75 + 0.15 * (title.count("\n") + 1) + (0.15 + 0.15 * lines) * max(1, len(rows))))
    axes.axvline(0, color=INK["muted"], linewidth=1)
    for height, (_, _, difference) in enumerate(rows):
        if difference.low is not None and difference.high is not None:
            axes.plot([difference.low, difference.high], [height, height], color=INK["accent"], linewidth=2)
        axes.plot(float(difference.value or 0), height, "o", color=INK["accent"], markersize=6)
    axes.set_yticks(range(len(rows)), labels, parse_math=False)
    axes.set_ylim(max(1, len(rows)) - 0.5, -0.5)
    axes.set_xlabel(title, parse_math=False)
    return figure_svg(figure, "Difference in average precision of each finding")


def image_roc(matched: MatchedDetections) -> Markup | None:
    """Return the ROC curve of abnormal against normal images; None where one of them is missing."""
    auc = float(roc_auc(matched.images)[0])
    if np.isnan(auc):
        return None
    figure, axes = _figure(SIZE)
    axes.plot([0, 1], [0, 1], color=INK["line"], linewidth=1)
    false, true = roc_curve(matched.images)
    axes.plot(false, true, color=INK["accent"], linewidth=2)
    axes.text(0.97, 0.05, f"AUC {format_score(auc)}", ha="right", color=INK["text"])
    axes.set(xlabel="1 - specificity", ylabel="sensitivity", xlim=(0, 1), ylim=(0, 1.02))
    return figure_svg(figure, "ROC curve of abnormal against normal images")


def reliability(calibration: Calibration) -> Markup:
    """Return precision over score, in bins, with the number of detections in each."""
    figure, axes = _figure(SIZE)
    axes.plot([0, 1], [0, 1], color=INK["line"], linewidth=1)
    bins = len(calibration.counts)
    for place, (count, precision) in enumerate(zip(calibration.counts, calibration.precision, strict=True)):
        if not count:
            continue
        axes.bar((place + 0.5) / bins, precision, 0.9 / bins, color=INK["accent"])
        axes.text(
            (place + 0.5) / bins,
            precision + 0.02,
            f"{count:,}",
            ha="center",
            va="bottom",
            fontsize=7,
            color=INK["muted"],
        )
    axes.set(xlabel="score", ylabel="precision (share of hits)", xlim=(0, 1), ylim=(0, 1.1))
    return figure_svg(figure, "Precision of detections over their score")


def _figure(size: tuple[float, float]) -> tuple[Figure, Axes]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(INK["line"])
    axes.tick_params(colors=INK["muted"], labelsize=9)
    axes.xaxis.label.set(color=INK["text"], fontsize=10)
    axes.yaxis.label.set(color=INK["text"], fontsize=10)
    return figure, axes


def _grid(x_label: str, y_label: str) -> tuple[Figure, Axes]:
    """Return axes with a grid."""
    figure, axes = _figure(SIZE)
    axes.grid(color=INK["line"], linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set(xlabel=x_label, ylabel=y_label)
    return figure, axes


def _class_line(axes: Axes, label: int, x: NDArray[np.float64], y: NDArray[np.float64], *, steps: str) -> None:
    style = class_style(label)
    axes.plot(x, y, color=style.css_color, linestyle=style.dash, linewidth=1.5, drawstyle=steps)


def _pooled_line(axes: Axes, matched: MatchedDetections, color: str) -> None:
    axes.plot(*_staircase(froc_curve(matched.pooled)), color=color, linewidth=2.4, drawstyle="steps-post")


def _bars(axes: Axes, values: Mapping[str, Interval], color: str) -> None:
    """Draw the intervals at the seven rates."""
    for rate in RATES:
        interval = values[sensitivity_name(rate)]
        if interval.low is not None and interval.high is not None:
            axes.plot([rate, rate], [interval.low, interval.high], color=color, linewidth=1.2, alpha=0.8)


def _staircase(curve: FrocCurve) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the curve's corners, carried on to the right end of the axis."""
    x = np.concatenate([[0], curve.false_positives, [max([RATES[-1], *curve.false_positives[-1:]])]])
    y = np.concatenate([[0], curve.sensitivity, curve.sensitivity[-1:] if len(curve.sensitivity) else [0]])
    return x, y


def _rates_axis(axes: Axes) -> None:
    axes.set_xscale("log", base=2)
    axes.set_xticks(RATES, ["1/8", "1/4", "1/2", "1", "2", "4", "8"])
    axes.minorticks_off()
    axes.set(xlim=(RATES[0] / 1.1, RATES[-1] * 1.1), ylim=(0, 1.02))
