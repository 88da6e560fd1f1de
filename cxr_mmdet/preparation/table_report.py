"""A readers' table on its own: what it holds, its consensus, and how far its readers agree; no radiograph needed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd
from rich import box
from rich.table import Table

from cxr_mmdet.annotations.agreement import measure_agreement
from cxr_mmdet.annotations.ceiling import human_ceiling
from cxr_mmdet.annotations.consensus import fuse_readers
from cxr_mmdet.annotations.coverage import ImageFacts, count_images
from cxr_mmdet.annotations.marks import Marks
from cxr_mmdet.annotations.readers import RESAMPLES, Reliability
from cxr_mmdet.annotations.sources import read_source
from cxr_mmdet.annotations.table import is_region, merge_classes, without_regions, write_frame
from cxr_mmdet.errors import counted
from cxr_mmdet.pages import format_percent, format_score
from cxr_mmdet.preparation.label_sets import choose_label_sets
from cxr_mmdet.structures.boxes import XYXY_COLUMNS
from cxr_mmdet.structures.enums import ReaderFusion
from cxr_mmdet.structures.labels import NO_FINDING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from cxr_mmdet.annotations.against_readers import AgainstReaders
    from cxr_mmdet.annotations.coverage import ImageCounts
    from cxr_mmdet.annotations.sources import Source
    from cxr_mmdet.evaluation.bootstrap import Interval
    from cxr_mmdet.preparation.label_sets import LabelSet


SHOWN_READERS = 3
"""Readers whose sensitivity is printed: those with most boxes."""


@dataclass(frozen=True)
class TableOptions:
    """Options of the survey and of fusing readers; see :class:`cxr_mmdet.preparation.options.BuildOptions`."""

    labels: tuple[str, ...] = ("14",)
    fusion: str = "wbf"
    fusion_iou: float = 0.4
    min_votes: int = 2
    ceiling: bool = False
    reliability: bool = False


@dataclass(frozen=True)
class LabelSetReport:
    """One label set: its consensus in pixels of the originals, boxes per class before it, agreement and ceiling.

    ``images`` counts those on which a class is present, absent and unknown; None where every class was looked for.
    """

    label_set: LabelSet
    fused: pd.DataFrame
    readers_boxes: dict[str, int]
    agreement: dict[str, Any] | None
    human_ceiling: dict[str, Any] | None
    reliability: list[dict[str, Any]] | None
    images: dict[str, ImageCounts] | None


@dataclass(frozen=True)
class TableReport:
    """Contents of a table.

    Attributes:
        rows: how many.
        images: how many.
        normal_images: those on which nobody drew a box.
        readers: how many.
        unread: images that the source names, but that nobody read.
        notes: what a user should know.
        label_sets: one entry a label set.
    """

    rows: int
    images: int
    normal_images: int
    readers: int
    unread: int
    notes: tuple[str, ...]
    label_sets: tuple[LabelSetReport, ...]


def report_table(path: Path, options: TableOptions, format_name: str | None = None) -> TableReport:
    """Return what the annotations in a file or folder hold.

    Raises:
        UsageError: a label set does not fit the table.
        TableError: the table contradicts itself.
        DatasetError: a ``.json`` file is not COCO.
    """
    table = read_source(path, format_name=format_name)
    rows = table.rows
    images = rows["image_id"].nunique()
    notes = list(table.notes)
    if (options.reliability or options.fusion == ReaderFusion.READERS) and not _has_shared_images(rows):
        notes.append("no two readers share an image, so nothing can be learned about them, and every box counts alike.")
    return TableReport(
        rows=len(rows),
        images=images,
        normal_images=images - rows.loc[(rows["class_name"] != NO_FINDING) & ~is_region(rows), "image_id"].nunique(),
        readers=rows["reader"].nunique(),
        unread=len(table.unread),
        notes=tuple(notes),
        label_sets=tuple(
            _report_label_set(label_set, table, options)
            for label_set in choose_label_sets(options.labels, rows, None, [table.format], table.looked_for)
        ),
    )


def _report_label_set(label_set: LabelSet, source: Source, options: TableOptions) -> LabelSetReport:
    merged = merge_classes(source.rows, label_set.label_map)
    coverage = ImageFacts(source.coverage).of_labels(label_set.label_map, merged)
    own = without_regions(merged)
    fusion: dict[str, Any] = {
        "method": options.fusion,
        "iou_threshold": options.fusion_iou,
        "min_votes": options.min_votes,
    }
    fused = fuse_readers(merged, **fusion)
    fused = fused[~is_region(fused)]
    groups = {image: image for image in own["image_id"].unique()}
    ceiling = human_ceiling(own, label_set.labels, groups, {"all": groups}, fusion=fusion) if options.ceiling else None
    return LabelSetReport(
        label_set=label_set,
        fused=fused[fused["class_name"].isin(label_set.labels)].reset_index(drop=True),
        readers_boxes={str(name): int(count) for name, count in own["class_name"].value_counts().items()},
        agreement=measure_agreement(own, label_set.labels, coverage=coverage),
        human_ceiling=ceiling and ceiling["all"],
        reliability=_reliability(own, label_set.labels) if options.reliability and _has_shared_images(own) else None,
        images=None if coverage is None else count_images(merged, label_set.labels, coverage),
    )


def _has_shared_images(rows: pd.DataFrame) -> bool:
    return bool(without_regions(rows).groupby("image_id")["reader"].nunique().max() > 1)


def _reliability(rows: pd.DataFrame, labels: Sequence[str]) -> list[dict[str, Any]]:
    return Reliability.of(Marks.of(rows, labels), resamples=RESAMPLES).to_rows()


def table_lines(report: TableReport) -> Iterator[str | Table]:
    """Yield what to print: a line on the table, then a table for each label set."""
    yield (
        f"{counted(report.rows, 'row')}, {counted(report.images, 'image')} ({report.normal_images:,} without a box), "
        f"{counted(report.readers, 'reader')}"
        + (f", {report.unread:,} images that nobody read" if report.unread else "")
    )
    for each in report.label_sets:
        yield _label_set_table(each)
        if each.reliability:
            yield _reliability_table(each.reliability, each.label_set.labels)
        if each.human_ceiling:
            headline = each.human_ceiling["voc_mean_ap_40"]
            yield (
                f"human ceiling, VOC mAP@.4: {format_score(headline['value'])} "
                f"({format_score(headline['low'])} to {format_score(headline['high'])})"
            )


def _label_set_table(each: LabelSetReport) -> Table:
    """Return a row for each class: boxes before and after fusion, agreement, and the ceiling where it was asked for."""
    title = f"labels {each.label_set.name}"
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    headers = ["readers'\nboxes", "fused\nboxes", *(["met", "F1", "kappa"] if each.agreement else [])]
    headers += ["images\npresent", "\nabsent", "\nunknown"] if each.images else []
    table.add_column("class", no_wrap=True)
    for header in [*headers, *(["ceiling\nAP@.4"] if each.human_ceiling else [])]:
        table.add_column(header, justify="right")
    fused = each.fused["class_name"].value_counts()
    for number, name in enumerate(each.label_set.labels):
        cells = [f"{each.readers_boxes.get(name, 0):,}", f"{int(fused.get(name, 0)):,}"]
        if each.agreement:
            entry = each.agreement["per_class"][number]
            cells += [format_percent(entry["met"]), format_score(entry["f1"]), format_score(entry["kappa"])]
        cells += [f"{count:,}" for count in each.images[name]] if each.images else []
        if each.human_ceiling:
            cells.append(format_score(each.human_ceiling["per_class"][number]["voc_ap_40"]["value"]))
        table.add_row(name, *cells)
    total = sum(each.readers_boxes.get(name, 0) for name in each.label_set.labels)
    table.add_section()
    table.add_row("all", f"{total:,}", f"{len(each.fused):,}", style="bold")
    return table


def _reliability_table(rows: Sequence[dict[str, Any]], labels: Sequence[str]) -> Table:
    """Return the sensitivity of the readers with most boxes, class by class, with its interval."""
    boxes: dict[str, int] = {}
    for row in rows:
        boxes[row["reader"]] = boxes.get(row["reader"], 0) + row["boxes"]
    shown = sorted(boxes, key=lambda reader: (-boxes[reader], reader))[:SHOWN_READERS]
    cells = {(row["name"], row["reader"]): row["sensitivity"] for row in rows}
    table = Table(title="Sensitivity of the readers", title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    table.add_column("class", no_wrap=True)
    for reader in shown:
        table.add_column(f"{reader}\n{counted(boxes[reader], 'box')}", justify="right")
    for name in labels:
        own = [cells.get((name, reader)) for reader in shown]
        table.add_row(name, *(f"{e['value']:.2f} ({e['low']:.2f}-{e['high']:.2f})" if e else "" for e in own))
    return table


def against_readers_tables(ranked: AgainstReaders) -> list[Table]:
    """Return what ``evaluate run --against readers`` prints: a row for each reader, then one for each class."""
    readers = Table(title="Against readers", title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    readers.add_column("reader", no_wrap=True)
    for header in ("images", "detector's\nmAP@.4", "reader's F1\nto the others", "detector's F1\nto the others"):
        readers.add_column(header, justify="right")
    for each in ranked.readers:
        values = (each.detector_against, each.reader_f1, each.detector_f1)
        readers.add_row(each.reader, f"{each.images:,}", *map(_with_ends, values))
    readers.add_section()
    readers.add_row("a new one", "", _with_ends(ranked.expected), style="bold")
    classes = Table(title="The detector as one more reader", title_justify="left", box=box.SIMPLE_HEAD)
    classes.add_column("class", no_wrap=True)
    for header in ("AP@.4 against\na new reader", "rank, readers\nand detector"):
        classes.add_column(header, justify="right")
    for name, value in ranked.per_class.items():
        classes.add_row(name, _with_ends(value), _rank(ranked.class_rank[name], ranked.class_of[name]))
    classes.add_section()
    classes.add_row("all", _with_ends(ranked.expected), _rank(ranked.rank, ranked.of), style="bold")
    return [readers, classes]


def _with_ends(value: Interval) -> str:
    ends = "" if value.low is None else f"\n{format_score(value.low)} to {format_score(value.high)}"
    return format_score(value.value) + ends


def _rank(value: Interval, of: int) -> str:
    if value.value is None:
        return "n/a"
    return f"{value.value:.0f} of {of}" + ("" if value.low is None else f" ({value.low:.0f} to {value.high:.0f})")


def write_fused(path: Path, label_sets: Sequence[LabelSetReport]) -> None:
    """Write the fused boxes of the label sets as one table; readers are separated by semicolons."""
    frame = pd.concat([each.fused.assign(labels=each.label_set.name) for each in label_sets], ignore_index=True)
    frame = frame.assign(readers=frame["readers"].map(";".join))
    columns = ["labels", "image_id", "class_name", *XYXY_COLUMNS, "score", "votes", "readers"]
    write_frame(path, frame[columns])
