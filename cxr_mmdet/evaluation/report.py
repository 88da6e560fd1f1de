"""``report.html``: a detector's account in one self-contained page, or that of two side by side."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cxr_mmdet.evaluation import figures
from cxr_mmdet.evaluation.headline import of_class, sensitivity_name
from cxr_mmdet.evaluation.panels import (
    Extreme,
    PictureBook,
    entries_by_image,
    found_by_one,
    worst_false_alarms,
    worst_misses,
)
from cxr_mmdet.evaluation.terminal import SHOWN, TITLES
from cxr_mmdet.pages import page_environment, write_page

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence

    from cxr_mmdet.evaluation.bootstrap import Interval
    from cxr_mmdet.evaluation.comparison import Comparison
    from cxr_mmdet.evaluation.evaluate import Account
    from cxr_mmdet.evaluation.panels import Study
    from cxr_mmdet.structures.coco import CocoDict, Detection

TEMPLATES = Path(__file__).parent / "templates"

PACKAGES = ("cxr-mmdet", "hotcoco", "numpy", "matplotlib")
"""What the numbers and the page depend on."""

EXPLAIN = {
    "class": "right box, wrong class",
    "localisation": "right class, box too far off (IoU 0.1…0.5)",
    "both": "wrong class and box too far off",
    "duplicate": "a second detection of a box",
    "background": "nothing there (IoU below 0.1)",
    "missed": "no detection near a box",
}
"""TIDE's kinds of error in words."""

PICTURES = 6
"""How many misses, and how many false alarms, a page shows."""

_TRIPLE_LONG_EDGE = 640
"""Three pictures share the width that two have elsewhere."""


@dataclass(frozen=True)
class Background:
    """What a report says about where its numbers come from.

    Attributes:
        ground_truth: the file's name.
        detections: the files' names.
        configs: name and text of the detectors' configurations, as far as known.
    """

    ground_truth: str
    detections: tuple[str, ...]
    configs: tuple[tuple[str, str], ...] = ()


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
    boxes: int
    detections: int
    ece: float | None
    ceiling: Interval | None


def write_report(
    path: str | os.PathLike[str],
    account: Account,
    ground_truth: CocoDict,
    detections: Sequence[Detection],
    *,
    background: Background,
    image_dir: Path | None = None,
    title: str = "Detector report",
) -> None:
    """Write the page of one detector.

    Args:
        path: the page.
        account: its numbers.
        ground_truth: COCO dict, checked.
        detections: COCO results, the same that the account was taken of.
        background: where they come from.
        image_dir: the prepared pictures; without it the page shows none.
        title: its heading.

    Raises:
        DatasetError: a picture is missing or cannot be decoded.
    """
    matched = account.matched
    write_page(
        path,
        page_environment(TEMPLATES).get_template("report.html"),
        title=title,
        account=account,
        background=background,
        versions=_versions(),
        headline=[_headline_row(account, name) for name in SHOWN],
        classes=_class_rows(account),
        legend=list(enumerate(matched.truth.names)),
        confusion=_confusion_rows(account),
        explain=EXPLAIN,
        most_costly=max((kind.cost for kind in account.errors), default=0) or 1,
        precision_recall=figures.precision_recall(matched.voc),
        froc=figures.froc(matched, account.values),
        image_roc=figures.image_roc(matched),
        reliability=figures.reliability(account.calibration),
        misses=_misses(account, ground_truth, detections, image_dir),
        false_alarms=_false_alarms(account, ground_truth, detections, image_dir),
    )


def write_comparison_report(
    path: str | os.PathLike[str],
    comparison: Comparison,
    accounts: tuple[Account, Account],
    ground_truth: CocoDict,
    detections: tuple[Sequence[Detection], Sequence[Detection]],
    *,
    background: Background,
    image_dir: Path | None = None,
    title: str = "Two detectors",
) -> None:
    """Write the page of two detectors; arguments as for :func:`write_report`, in pairs."""
    first, second = (account.matched for account in accounts)
    thresholds = (accounts[0].score_threshold, accounts[1].score_threshold)
    studies: list[list[Study]] = []
    for finder, other, cuts in ((second, first, thresholds[::-1]), (first, second, thresholds)):
        extremes = found_by_one(finder, other, (cuts[0], cuts[1]), PICTURES) if image_dir else []
        studies.append(_compared(extremes, ground_truth, detections, comparison.names, thresholds, image_dir))
    write_page(
        path,
        page_environment(TEMPLATES).get_template("comparison.html"),
        title=title,
        comparison=comparison,
        background=background,
        versions=_versions(),
        headline=[(TITLES[name], comparison.values[name]) for name in SHOWN],
        classes=[
            (label, name, comparison.values[of_class("voc_ap_40", label)], comparison.values[of_class("ap_50", label)])
            for label, name in enumerate(comparison.classes)
        ],
        legend=list(enumerate(comparison.classes)),
        colors=("var(--text)", "var(--accent)"),
        froc=figures.compare_froc(first, second, comparison),
        differences=figures.class_differences(comparison),
        explain=EXPLAIN,
        errors=list(zip(accounts[0].errors, accounts[1].errors, strict=True)),
        thresholds=[account.printed_threshold for account in accounts],
        undefined=[
            name for name, account in zip(comparison.names, accounts, strict=True) if account.score_threshold is None
        ],
        gained=studies[0],
        lost=studies[1],
    )


def _headline_row(account: Account, name: str) -> _HeadlineRow:
    interval, ceiling = account.values[name], account.ceiling
    return _HeadlineRow(
        title=TITLES[name],
        interval=interval,
        ceiling=ceiling.values.get(name) if ceiling else None,
        reached=ceiling.reached(name, interval.value) if ceiling else None,
    )


def _class_rows(account: Account) -> list[_ClassRow]:
    names = ("voc_ap_40", "ap_50", "ap", sensitivity_name(1))
    ceilings = account.ceiling.per_class if account.ceiling else {}
    return [
        _ClassRow(
            label=label,
            name=scores.name,
            values={name: account.values[of_class(name, label)] for name in names},
            boxes=scores.ground_truth_boxes,
            detections=scores.detections,
            ece=account.class_calibration[label].ece,
            ceiling=ceilings.get(scores.name, {}).get("voc_ap_40"),
        )
        for label, scores in enumerate(account.coco.per_class)
    ]


def _confusion_rows(account: Account) -> list[tuple[str, list[tuple[int, float]]]]:
    """Return each row's name and its counts, with the share of the row they are."""
    names = [*account.confusion.names, "background"]
    rows = []
    for name, counts in zip(names, account.confusion.counts.tolist(), strict=True):
        total = sum(counts) or 1
        rows.append((name, [(count, count / total) for count in counts]))
    return rows


def _misses(
    account: Account, ground_truth: CocoDict, detections: Sequence[Detection], image_dir: Path | None
) -> list[Study]:
    if image_dir is None:
        return []
    names = account.matched.truth.names

    def remark(extreme: Extreme) -> str:
        met = f"met only at score {extreme.score:.2f}" if extreme.score else "met by no detection at any score"
        return f"{names[extreme.label]} missed: {met}"

    extremes = worst_misses(account.matched, account.score_threshold, PICTURES)
    return _studies(extremes, remark, account, ground_truth, detections, image_dir)


def _false_alarms(
    account: Account, ground_truth: CocoDict, detections: Sequence[Detection], image_dir: Path | None
) -> list[Study]:
    if image_dir is None:
        return []
    names = account.matched.truth.names

    def remark(extreme: Extreme) -> str:
        return f"{names[extreme.label]} at score {extreme.score:.2f}, where the ground truth has none"

    extremes = worst_false_alarms(account.matched, account.score_threshold, PICTURES)
    return _studies(extremes, remark, account, ground_truth, detections, image_dir)


def _studies(
    extremes: Sequence[Extreme],
    remark: Any,
    account: Account,
    ground_truth: CocoDict,
    detections: Sequence[Detection],
    image_dir: Path,
) -> list[Study]:
    book, found = PictureBook(ground_truth, image_dir), entries_by_image(detections)
    image_ids = [ground_truth["images"][extreme.image]["id"] for extreme in extremes]
    return [
        book.study(image_id, [("Detections", found[image_id], account.score_threshold)], remark=remark(extreme))
        for image_id, extreme in zip(image_ids, extremes, strict=True)
    ]


def _compared(
    extremes: Sequence[Extreme],
    ground_truth: CocoDict,
    detections: tuple[Sequence[Detection], Sequence[Detection]],
    names: tuple[str, str],
    thresholds: tuple[float | None, ...],
    image_dir: Path | None,
) -> list[Study]:
    if image_dir is None:
        return []
    book = PictureBook(ground_truth, image_dir)
    found = [entries_by_image(entries) for entries in detections]
    studies = []
    for extreme in extremes:
        image_id = ground_truth["images"][extreme.image]["id"]
        panels = [(names[i], found[i][image_id], thresholds[i]) for i in range(2)]
        remark = f"{book.names[extreme.label]}, found at score {extreme.score:.2f}"
        studies.append(book.study(image_id, panels, remark=remark, long_edge=_TRIPLE_LONG_EDGE))
    return studies


def _versions() -> dict[str, str]:
    """Return the versions behind the numbers."""
    versions = {"Python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:  # run from a copy of the source
            continue
    return versions
