"""``report.html``: the evaluation of a detector, or the comparison of two, as one self-contained page."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cxr_mmdet.evaluation import figures
from cxr_mmdet.evaluation.ceiling import find_training_readers
from cxr_mmdet.evaluation.headline import of_class, sensitivity_name
from cxr_mmdet.evaluation.panels import (
    Extreme,
    ImageBook,
    entries_by_image,
    found_by_one,
    worst_false_alarms,
    worst_misses,
)
from cxr_mmdet.evaluation.terminal import SHOWN, TITLES, ap_title
from cxr_mmdet.pages import page_environment, write_page

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Mapping, Sequence

    from cxr_mmdet.evaluation.bootstrap import Interval
    from cxr_mmdet.evaluation.comparison import Comparison
    from cxr_mmdet.evaluation.evaluate import EvaluationResult
    from cxr_mmdet.evaluation.inputs import EvaluationInputs
    from cxr_mmdet.evaluation.panels import Study

TEMPLATES = Path(__file__).parent / "templates"

PACKAGES = ("cxr-mmdet", "hotcoco", "numpy", "matplotlib")
"""Packages that the numbers and the page depend on."""

EXPLAIN = {
    "class": "right box, wrong class",
    "localisation": "right class, box too far off (IoU 0.1…0.5)",
    "both": "wrong class and box too far off",
    "duplicate": "a second detection of a box",
    "background": "nothing there (IoU below 0.1)",
    "missed": "no detection near a box",
}
"""TIDE's kinds of error in words."""

IMAGES = 6
"""Number of misses, and of false positives, that a page shows."""

_TRIPLE_LONG_EDGE = 640
"""Three images share the width that two have elsewhere."""


@dataclass(frozen=True)
class _HeadlineRow:
    title: str
    interval: Interval
    ceiling: Interval | None
    reached: float | None


@dataclass(frozen=True)
class _ClassRow:
    label: int
    name: str
    values: Mapping[str, Interval]
    images: int
    boxes: int
    detections: int
    ece: float | None
    ceiling: Interval | None


def write_report(
    path: str | os.PathLike[str],
    result: EvaluationResult,
    *,
    image_dir: Path | None = None,
    title: str = "Detector report",
    against_readers: Mapping[str, Any] | None = None,
) -> None:
    """Write the page of one detector.

    Args:
        path: HTML file.
        result: numbers, ground truth and detections.
        image_dir: folder of the prepared images; without it the page shows none.
        title: heading of the page.
        against_readers: content of ``against_readers.json``; without it the page has no such section.

    Raises:
        DatasetError: an image is missing or cannot be decoded.
    """
    matched = result.matched
    write_page(
        path,
        page_environment(TEMPLATES).get_template("report.html"),
        title=title,
        result=result,
        provenance=_provenance(result.inputs),
        headline=[_headline_row(result, name) for name in SHOWN],
        classes=_class_rows(result),
        legend=list(enumerate(matched.truth.names)),
        at_threshold=[*enumerate(result.class_scores), (None, result.overall_scores)],
        ap_title=ap_title(result.voc.iou_threshold),
        confusion=_confusion_rows(result),
        explain=EXPLAIN,
        most_costly=max((kind.cost for kind in result.errors), default=0) or 1,
        precision_recall=figures.precision_recall(matched.hits, result.voc.iou_threshold),
        froc=figures.froc(matched, result.values),
        image_roc=figures.image_roc(matched),
        reliability=figures.reliability(result.calibration),
        misses=_misses(result, image_dir),
        false_alarms=_false_alarms(result, image_dir),
        against_readers=against_readers,
        training_readers=find_training_readers(result.inputs.ground_truth_path),
    )


def write_comparison_report(
    path: str | os.PathLike[str],
    comparison: Comparison,
    results: tuple[EvaluationResult, EvaluationResult],
    *,
    image_dir: Path | None = None,
    title: str = "Two detectors",
) -> None:
    """Write the page of two detectors; arguments as for :func:`write_report`."""
    first, second = (result.matched for result in results)
    thresholds = (results[0].score_threshold, results[1].score_threshold)
    studies: list[list[Study]] = []
    for finder, other, cuts in ((second, first, thresholds[::-1]), (first, second, thresholds)):
        extremes = found_by_one(finder, other, (cuts[0], cuts[1]), IMAGES) if image_dir else []
        studies.append(_compared(extremes, results, comparison.names, image_dir))
    write_page(
        path,
        page_environment(TEMPLATES).get_template("comparison.html"),
        title=title,
        comparison=comparison,
        provenance=_provenance(*(result.inputs for result in results)),
        headline=[(TITLES[name], comparison.values[name]) for name in SHOWN],
        classes=[
            (label, name, comparison.values[of_class("voc_ap_40", label)])
            for label, name in enumerate(comparison.classes)
        ],
        legend=list(enumerate(comparison.classes)),
        colors=("var(--text)", "var(--accent)"),
        froc=figures.compare_froc(first, second, comparison),
        differences=figures.class_differences(comparison),
        explain=EXPLAIN,
        errors=list(zip(results[0].errors, results[1].errors, strict=True)),
        thresholds=[result.printed_threshold for result in results],
        undefined=[
            name for name, result in zip(comparison.names, results, strict=True) if result.score_threshold is None
        ],
        gained=studies[0],
        lost=studies[1],
    )


def _headline_row(result: EvaluationResult, name: str) -> _HeadlineRow:
    interval, ceiling = result.values[name], result.ceiling
    return _HeadlineRow(
        title=TITLES[name],
        interval=interval,
        ceiling=ceiling.values.get(name) if ceiling else None,
        reached=ceiling.reached(name, interval.value) if ceiling else None,
    )


def _class_rows(result: EvaluationResult) -> list[_ClassRow]:
    names = ("voc_ap_40", "ap_50", "ap", sensitivity_name(1))
    ceilings = result.ceiling.per_class if result.ceiling else {}
    images = result.matched.truth.exhaustive.sum(axis=0).tolist()
    return [
        _ClassRow(
            label=label,
            name=scores.name,
            values={name: result.values[of_class(name, label)] for name in names},
            images=images[label],
            boxes=scores.ground_truth_boxes,
            detections=scores.detections,
            ece=result.class_calibration[label].ece,
            ceiling=ceilings.get(scores.name, {}).get("voc_ap_40"),
        )
        for label, scores in enumerate(result.coco.per_class)
    ]


def _confusion_rows(result: EvaluationResult) -> list[tuple[str, list[tuple[int, float]]]]:
    """Return each row's name and its counts, with the share of the row they are."""
    names = [*result.confusion.names, "background"]
    rows = []
    for name, counts in zip(names, result.confusion.counts.tolist(), strict=True):
        total = sum(counts) or 1
        rows.append((name, [(count, count / total) for count in counts]))
    return rows


def _misses(result: EvaluationResult, image_dir: Path | None) -> list[Study]:
    names = result.matched.truth.names

    def remark(extreme: Extreme) -> str:
        met = f"hit only at score {extreme.score:.2f}" if extreme.score else "hit by no detection at any score"
        return f"{names[extreme.label]} missed: {met}"

    extremes = worst_misses(result.matched, result.score_threshold, IMAGES)
    return _studies(extremes, remark, result, image_dir)


def _false_alarms(result: EvaluationResult, image_dir: Path | None) -> list[Study]:
    names = result.matched.truth.names

    def remark(extreme: Extreme) -> str:
        return f"{names[extreme.label]} at score {extreme.score:.2f}, where the ground truth has none"

    extremes = worst_false_alarms(result.matched, result.score_threshold, IMAGES)
    return _studies(extremes, remark, result, image_dir)


def _studies(
    extremes: Sequence[Extreme],
    remark: Callable[[Extreme], str],
    result: EvaluationResult,
    image_dir: Path | None,
) -> list[Study]:
    if image_dir is None:
        return []
    truth = result.inputs.ground_truth
    book, detections = ImageBook(truth, image_dir), entries_by_image(result.inputs.detections)
    image_ids = [truth["images"][extreme.image]["id"] for extreme in extremes]
    return [
        book.study(image_id, [("Detections", detections[image_id], result.score_threshold)], remark=remark(extreme))
        for image_id, extreme in zip(image_ids, extremes, strict=True)
    ]


def _compared(
    extremes: Sequence[Extreme],
    results: tuple[EvaluationResult, EvaluationResult],
    names: tuple[str, str],
    image_dir: Path | None,
) -> list[Study]:
    if image_dir is None:
        return []
    truth = results[0].inputs.ground_truth
    book = ImageBook(truth, image_dir)
    detections = [entries_by_image(result.inputs.detections) for result in results]
    studies = []
    for extreme in extremes:
        image_id = truth["images"][extreme.image]["id"]
        panels = [(names[i], detections[i][image_id], results[i].score_threshold) for i in range(2)]
        remark = f"{book.names[extreme.label]}, found at score {extreme.score:.2f}"
        studies.append(book.study(image_id, panels, remark=remark, long_edge=_TRIPLE_LONG_EDGE))
    return studies


def _provenance(*inputs: EvaluationInputs) -> dict[str, Any]:
    """Return the names of the files behind the numbers, the detectors' configs and the versions of the packages."""
    truth = inputs[0].ground_truth_path
    return {
        "ground_truth": truth.name if truth else None,
        "detections": [each.detections_path.name for each in inputs if each.detections_path],
        "configs": list(dict.fromkeys(config for each in inputs for config in each.find_configs())),
        "versions": _versions(),
    }


def _versions() -> dict[str, str]:
    """Return the versions behind the numbers."""
    versions = {"Python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:  # run from a copy of the source
            continue
    return versions
