"""Survey of a folder of radiographs: what is in it and what would fail."""

from __future__ import annotations

import hashlib
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from rich import box
from rich.markup import escape
from rich.table import Table

from cxr_mmdet.annotations.coverage import ImageCounts, count_images
from cxr_mmdet.annotations.sources import find_source, formats
from cxr_mmdet.annotations.sources.base import grouped
from cxr_mmdet.annotations.sources.vinbigdata import TABLE_NAME
from cxr_mmdet.annotations.table import SIZE_COLUMNS, class_names
from cxr_mmdet.dicom.attributes import text_of
from cxr_mmdet.dicom.radiograph import read_radiograph
from cxr_mmdet.dicom.source import quiet_pydicom
from cxr_mmdet.errors import DatasetError, DicomError, TableError, counted
from cxr_mmdet.parallel import map_unordered
from cxr_mmdet.preparation.inputs import read_input
from cxr_mmdet.preparation.pseudonyms import PseudonymKey
from cxr_mmdet.structures.boxes import XYXY_COLUMNS
from cxr_mmdet.structures.radiograph_files import (
    is_radiograph_file,
    read_bytes,
    visible_files,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    import pandas as pd
    from numpy.typing import NDArray

    from cxr_mmdet.dicom.radiograph import Radiograph


@dataclass(frozen=True)
class TableMatch:
    """Comparison of the annotations with the radiographs.

    Attributes:
        problem: why the two cannot be compared at all; then the rest is empty.
        images: how many images the table names.
        without_file: images of the table for which there is no file.
        without_row: files for which there is no row, so that nobody read them.
        boxes_outside: image → how many of its boxes reach beyond its image.
        unread: images and files that nobody read, where that is no mistake in this format.
        classes: for each class the images on which it is present, absent and unknown; empty where every class was
            looked for on every image.
        notes: what a user should know of the annotations.
        format: title of the annotations' format.
    """

    problem: str | None = None
    images: int = 0
    without_file: tuple[str, ...] = ()
    without_row: tuple[str, ...] = ()
    boxes_outside: dict[str, int] | None = None
    unread: tuple[str, ...] = ()
    classes: dict[str, ImageCounts] = field(default_factory=dict)
    format: str = field(default="", compare=False)
    notes: tuple[str, ...] = field(default=(), compare=False)

    @property
    def is_complete(self) -> bool:
        """Return whether every row has its file, every file its row, and every box lies in its image."""
        return not (self.problem or self.without_file or self.without_row or self.boxes_outside)


def match_table(
    src: Path, sizes_hw: Mapping[str, tuple[int, int]], format_name: str | None = None
) -> TableMatch | None:
    """Return how the annotations of ``src`` fit its radiographs; None where there are none.

    Args:
        src: the folder.
        sizes_hw: path below ``src`` → rows and columns, of the files that could be read.
        format_name: format of the annotations; None tells it by their content.
    """
    try:
        find_source(src, format_name)
    except TableError as error:
        return TableMatch(problem=str(error)) if format_name or (src / TABLE_NAME).exists() else None
    try:
        found = read_input(src, format_name=format_name)
    except (TableError, DatasetError) as error:
        return TableMatch(problem=str(error))
    rows, coverage = found.source.rows, found.source.coverage
    by_image = {image_id: path.relative_to(src).as_posix() for image_id, path in found.files.items()}
    known = {image_id: sizes_hw[name] for image_id, name in by_image.items() if name in sizes_hw}
    classes = dict.fromkeys([*class_names(rows), *(() if coverage is None else map(str, coverage))])
    return TableMatch(
        images=rows["image_id"].nunique(),
        without_file=tuple(failure.image_id for failure in found.missing),
        without_row=() if found.source.unread_is_known else tuple(failure.image_id for failure in found.unread),
        boxes_outside=_boxes_outside(rows[rows["image_id"].isin(known)], known),
        unread=found.nobody_read,
        classes={} if coverage is None else count_images(rows, list(classes), coverage),
        format=formats()[found.source.format].title,
        notes=found.notes,
    )


def _boxes_outside(rows: pd.DataFrame, sizes_hw: Mapping[str, tuple[int, int]]) -> dict[str, int]:
    boxes = rows[XYXY_COLUMNS].to_numpy(np.float64)
    limits: NDArray[np.float64] = np.array(
        [sizes_hw[image_id][::-1] * 2 for image_id in rows["image_id"]], np.float64
    ).reshape(-1, 4)
    if SIZE_COLUMNS[0] in rows:  # the boxes were drawn on an image of this size
        stated = rows[SIZE_COLUMNS[::-1] * 2].to_numpy(np.float64)
        limits = np.where(np.isnan(stated), limits, stated)
    # "No finding" has no box: comparisons with NaN are False.
    outside = rows["image_id"].to_numpy()[((boxes < 0) | (boxes > limits)).any(axis=1)]
    return dict(sorted(Counter(map(str, outside)).items()))


PROPERTIES = ("syntax", "photometric", "bits", "size", "window", "modality", "view", "burned_in_annotation")

UNSTATED = "not stated"


@dataclass(frozen=True)
class FileFacts:
    """Facts of one file; ``reason`` says why it cannot be shown, then the rest is empty.

    Attributes:
        name: the path below the surveyed folder.
        reason: one sentence, None when the file can be shown.
        properties: value of each of ``PROPERTIES``.
        warnings: what was odd about it.
        size_hw: rows and columns.
        patient: the pseudonym of its Patient ID under the key of this survey.
        pixel_hash: equal for images that look the same, however they are encoded.
    """

    name: str
    reason: str | None = None
    properties: dict[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    size_hw: tuple[int, int] = (0, 0)
    patient: str | None = None
    pixel_hash: str | None = None


@dataclass(frozen=True)
class Survey:
    """Contents of a folder; files are named by their path below it.

    Attributes:
        readable: files that can be shown.
        other_files: files that neither name nor content make a radiograph.
        counts: for each of ``PROPERTIES``, how many readable files have which value, the most frequent first.
        warnings: how many readable files came with which warning.
        unreadable: file → why it cannot be shown.
        identical: groups of at least two files with the same image.
        burned_in: files that say that text is burnt into their pixels.
        patients: how many different Patient IDs there are.
        without_patient: readable files that state none.
        several: the files of each patient who has more than one, by a name made of the first.
        table: how the readers' table fits; None where there is none.
    """

    readable: int
    other_files: int
    counts: dict[str, dict[str, int]]
    warnings: dict[str, int]
    unreadable: dict[str, str]
    identical: tuple[tuple[str, ...], ...]
    burned_in: tuple[str, ...]
    patients: int
    without_patient: int
    several: dict[str, tuple[str, ...]]
    table: TableMatch | None

    @property
    def is_ready(self) -> bool:
        """Return whether a build of this folder would fail on no file and on no row."""
        return not self.unreadable and (self.table is None or self.table.is_complete)


def survey_folder(
    src: Path,
    *,
    format_name: str | None = None,
    jobs: int | None = 1,
    progress: Callable[[int, int], None] | None = None,
) -> Survey:
    """Return what is in ``src`` and the folders below it; every image is decoded, nothing is written.

    Args:
        src: the folder; its annotations are compared with its radiographs.
        format_name: format of the annotations; None tells it by their content.
        jobs: worker processes; None leaves it to a ``worker_pool`` around the call.
        progress: called with the number of files just dealt with, and of all.

    Raises:
        DatasetError: no file in it is a radiograph.
    """
    files = visible_files(src)
    radiographs = [path for path in files if is_radiograph_file(path, src)]
    if not radiographs:
        raise DatasetError(
            f"{src}: holds no radiograph, nor do its folders; got {len(files)} other files, expected DICOM, PNG, "
            "JPEG or TIFF"
        )
    key = PseudonymKey.random()
    tasks = [(path, path.relative_to(src).as_posix(), key) for path in radiographs]
    report = progress or (lambda done, total: None)
    facts = []
    report(0, len(tasks))
    with closing(map_unordered(examine_file, tasks, jobs=jobs)) as results:
        for each in results:
            facts.append(each)
            report(1, len(tasks))
    facts.sort(key=lambda each: each.name)
    table = match_table(src, {each.name: each.size_hw for each in facts if each.reason is None}, format_name)
    return summarise(facts, other_files=len(files) - len(radiographs), table=table)


def examine_file(path: Path, name: str, key: PseudonymKey) -> FileFacts:
    """Return what one file is, after decoding its image; messages call it ``name``."""
    try:
        content = read_bytes(path)
        with quiet_pydicom():
            radiograph = read_radiograph(content, name=name)
            properties = _properties(radiograph)
    except DicomError as error:
        return FileFacts(name, reason=str(error).removeprefix(f"{path}: ").removeprefix(f"{name}: "))
    return FileFacts(
        name,
        properties=properties,
        warnings=radiograph.warnings,
        size_hw=radiograph.size_hw,
        patient=key.pseudonym(radiograph.patient_id) if radiograph.patient_id else None,
        pixel_hash=_pixel_hash(radiograph.pixels),
    )


def summarise(facts: Sequence[FileFacts], *, other_files: int = 0, table: TableMatch | None = None) -> Survey:
    """Return the survey that the facts of all files, sorted by name, add up to."""
    shown = [each for each in facts if each.reason is None]
    by_patient = grouped((each.patient, each.name) for each in shown if each.patient is not None)
    by_image = grouped((each.pixel_hash, each.name) for each in shown if each.pixel_hash is not None)
    return Survey(
        readable=len(shown),
        other_files=other_files,
        counts={key: _counted(each.properties[key] for each in shown) for key in PROPERTIES},
        warnings=_counted(warning for each in shown for warning in each.warnings),
        unreadable={each.name: each.reason for each in facts if each.reason is not None},
        identical=tuple(sorted(names for names in by_image.values() if len(names) > 1)),
        burned_in=tuple(each.name for each in shown if each.properties["burned_in_annotation"] == "YES"),
        patients=len(by_patient),
        without_patient=sum(each.patient is None for each in shown),
        several={f"patient-of-{names[0]}": names for names in sorted(by_patient.values()) if len(names) > 1},
        table=table,
    )


def _properties(radiograph: Radiograph) -> dict[str, str]:
    height, width = radiograph.size_hw
    header = radiograph.header
    if header is None:
        return dict.fromkeys(PROPERTIES, UNSTATED) | {
            "syntax": f"none, {radiograph.transfer_syntax}",
            "photometric": radiograph.photometric,
            "size": f"{width} x {height}",
            "window": radiograph.windowing,
        }
    sign = ", signed" if text_of(header, "PixelRepresentation") == "1" else ""
    allocated = text_of(header, "BitsAllocated")
    return {
        "syntax": radiograph.transfer_syntax,
        "photometric": radiograph.photometric,
        "bits": f"{text_of(header, 'BitsStored') or allocated} of {allocated}{sign}",
        "size": f"{width} x {height}",
        "window": radiograph.windowing,
        "modality": text_of(header, "Modality") or UNSTATED,
        "view": text_of(header, "ViewPosition") or UNSTATED,
        "burned_in_annotation": text_of(header, "BurnedInAnnotation").upper() or UNSTATED,
    }


def _pixel_hash(pixels: np.ndarray) -> str:
    digest = hashlib.blake2b(repr(pixels.shape).encode(), digest_size=16)
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.hexdigest()


def _counted(values: Iterable[str]) -> dict[str, int]:
    counts = Counter(values)
    return dict(sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])))


SHOWN_VALUES = 8

SHOWN_NAMES = 5


def survey_table(survey: Survey) -> Table:
    """Return how many files have which value of each property; frequent ones first, rare ones summed up."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("property", no_wrap=True)
    table.add_column("value", overflow="fold")
    table.add_column("files", justify="right")
    rows = survey.counts | ({"warnings": survey.warnings} if survey.warnings else {})
    for name, counts in rows.items():
        title = name.replace("_", " ")
        for value, count in list(counts.items())[:SHOWN_VALUES]:
            table.add_row(title, escape(value), f"{count:,}")
            title = ""
        rest = list(counts.values())[SHOWN_VALUES:]
        if rest:
            table.add_row("", f"{len(rest)} more", f"{sum(rest):,}")
        table.add_section()
    return table


def survey_lines(survey: Survey) -> Iterator[str]:
    """Yield a sentence or a list for everything that a person should look at."""
    yield f"{survey.readable:,} radiographs, {len(survey.unreadable):,} unreadable, {survey.other_files:,} other files"
    yield _patients(survey)
    if survey.identical:
        copies = sum(len(names) - 1 for names in survey.identical)
        yield f"{counted(copies, 'image')} identical to another: {_listed([' = '.join(g) for g in survey.identical])}"
    if survey.burned_in:
        yield f"{len(survey.burned_in):,} say that text is burnt into the pixels: {_listed(survey.burned_in)}"
    yield from _unreadable(survey)
    yield from _table(survey.table)


def _patients(survey: Survey) -> str:
    line = f"{survey.patients:,} patients, {len(survey.several):,} with several images"
    if survey.several:
        line += f" (at most {max(map(len, survey.several.values())):,})"
    if survey.without_patient:
        line += f"; {survey.without_patient:,} radiographs state no Patient ID"
    return line


def _unreadable(survey: Survey) -> Iterator[str]:
    for reason, count in Counter(survey.unreadable.values()).most_common():
        names = [name for name, other in survey.unreadable.items() if other == reason]
        yield f"unreadable, {count:,}: {reason}: {_listed(names)}"


def _table(table: TableMatch | None) -> Iterator[str]:
    yield from (f"note: {note}" for note in (table.notes if table else ()))
    if table is None:
        yield "no annotations of a known format beside the radiographs"
    elif table.problem:
        yield f"table: {table.problem}"
    elif table.is_complete:
        yield f"{table.format}: {counted(table.images, 'image')}, each with its file; every box lies in its image"
    else:
        yield f"{table.format}: {counted(table.images, 'image')}"
        if table.without_file:
            yield f"table: {counted(len(table.without_file), 'image')} without a file: {_listed(table.without_file)}"
        if table.without_row:
            yield f"table: {counted(len(table.without_row), 'file')} without a row: {_listed(table.without_row)}"
        if table.boxes_outside:
            outside = sum(table.boxes_outside.values())
            yield f"table: {counted(outside, 'box', 'boxes')} beyond the image: {_listed(list(table.boxes_outside))}"
    if table and table.unread:
        yield f"table: {counted(len(table.unread), 'image')} that nobody read, so unknown: {_listed(table.unread)}"
    for name, counts in (table.classes if table else {}).items():
        present = counted(counts.present, "image")
        yield f"table: {name}: on {present}, absent on {counts.absent:,}, unknown on {counts.unknown:,}"


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN_NAMES:,} more" if len(names) > SHOWN_NAMES else ""
    return ", ".join(names[:SHOWN_NAMES]) + more
