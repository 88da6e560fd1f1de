"""Verdicts as a readers' table: what radiologists said of a model's findings, as one more reader to train on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd

from cxr_mmdet.annotations.table import PATIENT_COLUMNS, REGION_COLUMN, read_table
from cxr_mmdet.dicom.identity import hash_content, hash_pixels
from cxr_mmdet.dicom.radiograph import read_radiograph
from cxr_mmdet.dicom.source import quiet_pydicom
from cxr_mmdet.errors import DatasetError, DicomError, counted
from cxr_mmdet.files import write_csv
from cxr_mmdet.structures.boxes import XYXY_COLUMNS
from cxr_mmdet.structures.labels import NO_FINDING
from cxr_mmdet.structures.radiograph_files import find_originals, read_bytes
from cxr_mmdet.web.verdicts import Kind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from cxr_mmdet.web.store import StoredReading

COLUMNS = ("image_id", "class_name", "class_id", "rad_id", *XYXY_COLUMNS)


@dataclass(frozen=True)
class FeedbackSummary:
    """Result of an export.

    Attributes:
        images: radiographs with a reading.
        rows: of the readings.
        unfinished: readings that were left out since they were not finished.
        unknown: readings whose radiograph is not among the files.
    """

    images: int
    rows: int
    unfinished: int
    unknown: int


def export_feedback(
    readings: Sequence[StoredReading],
    out: Path,
    *,
    images: Path | None = None,
    reader: str | None = None,
    unfinished: bool = False,
    table: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> FeedbackSummary:
    """Write readings as a table that ``prepare_data build`` takes.

    A reading becomes the boxes the reader sees: agreed ones, corrected ones and missed ones, each once; without any it
    becomes "No finding". A reader's latest reading of a radiograph counts. An unfinished reading leaves out findings
    nobody looked at, which would become false "nothing there", so it is left out unless asked for.

    Args:
        readings: of a store.
        out: the table.
        images: the radiographs, as ``prepare_data build`` takes them: image ids are their files' names, and files are
            matched by content, or else by what they show: readings of several copies may be of one file. None takes the
            names in the store, if it has any.
        reader: name of all readings' reader; the readers' own names by default.
        unfinished: take unfinished readings, too.
        table: a readers' table that stands before the new rows, with its patients and regions to ignore, and whose
            class ids count.
        progress: called with the number of files hashed, and of all.

    Raises:
        DatasetError: there is no reading to write, or a store without names needs ``images``.
        TableError: ``table`` is none.
    """
    taken = [reading for reading in readings if reading.finished or unfinished]
    names = _names(taken, images, progress)
    latest: dict[tuple[str, str], StoredReading] = {}
    unknown = 0
    for reading in taken:
        name = names.get(reading.image.content_sha256)
        if name is None:
            unknown += 1
            continue
        key = (name, reader or reading.reader)
        latest.pop(key, None)
        latest[key] = reading
    if not latest:
        raise DatasetError(_nothing(len(readings), len(taken), unknown, images))
    rows = [row for (name, who), reading in sorted(latest.items()) for row in _rows(name, who, reading)]
    _write(out, rows, table)
    return FeedbackSummary(len({name for name, _ in latest}), len(rows), len(readings) - len(taken), unknown)


def _nothing(all_readings: int, finished: int, unknown: int, images: Path | None) -> str:
    if not all_readings:
        return "the store holds no reading; give verdicts on the page first."
    if not finished:
        return f"none of {counted(all_readings, 'reading')} is finished; finish them on the page, or pass --unfinished."
    of = "known by name; give their folder by --images" if images is None else f"in {images}; give another by --images"
    return f"none of the {unknown} radiographs that were read is {of}."


def _rows(name: str, reader: str, reading: StoredReading) -> list[tuple[object, ...]]:
    seen = [verdict for verdict in reading.verdicts if verdict.kind is not Kind.absent]
    if not seen:
        return [(name, NO_FINDING, reader, "", "", "", "")]
    # Two findings corrected to one box are one finding.
    rows = [(name, verdict.class_name, reader, *(round(side, 2) for side in verdict.box_xyxy)) for verdict in seen]
    return list(dict.fromkeys(rows))


def _names(
    readings: Sequence[StoredReading], images: Path | None, progress: Callable[[int, int], None] | None
) -> dict[str, str]:
    """Return content hash → image id of the radiographs that are known."""
    if images is None:
        return {reading.image.content_sha256: reading.image.name for reading in readings if reading.image.name}
    files = find_originals(images)
    wanted = {reading.image.content_sha256: reading.image.pixels_sha256 for reading in readings}
    found: dict[str, str] = {}
    others: dict[str, Path] = {}
    for image_id, path in files.items():
        digest = hash_content(read_bytes(path))
        if digest in wanted:
            found[digest] = image_id
        else:
            others[image_id] = path
        if progress is not None:
            progress(1, len(files))
    by_pixels = {wanted[content]: image_id for content, image_id in found.items()}
    if not by_pixels.keys() >= set(wanted.values()):
        for image_id, pixels in _pixel_hashes(others):
            by_pixels.setdefault(pixels, image_id)
    return {content: by_pixels[pixels] for content, pixels in wanted.items() if pixels in by_pixels} | found


def _pixel_hashes(files: dict[str, Path]) -> Iterable[tuple[str, str]]:
    for image_id, path in files.items():
        try:
            with quiet_pydicom():
                yield image_id, hash_pixels(read_radiograph(path).pixels)
        except DicomError:  # prepare_data build reports it
            continue


def _write(out: Path, found: Sequence[tuple[object, ...]], table: Path | None) -> None:
    frame = pd.DataFrame(found, columns=["image_id", "class_name", "rad_id", *XYXY_COLUMNS])
    parts = [frame]
    ids: dict[str, int] = {}
    if table is not None:
        before = read_table(table).rename(columns={"reader": "rad_id", "group": PATIENT_COLUMNS[0]})
        if REGION_COLUMN in before:
            before[REGION_COLUMN] = before[REGION_COLUMN].astype(int)
        ids = dict(zip(before["class_name"], before["class_id"], strict=True))
        parts.insert(0, before)
    for name in [*sorted(set(frame["class_name"]) - {NO_FINDING}), NO_FINDING]:
        ids.setdefault(name, max(ids.values(), default=-1) + 1)
    frame["class_id"] = frame["class_name"].map(ids)
    # Patients, which keep images on one side of a split, and regions to ignore.
    columns = [*COLUMNS, *(name for name in (PATIENT_COLUMNS[0], REGION_COLUMN) if name in parts[0])]
    rows = (row for part in parts for row in part.reindex(columns=columns).itertuples(index=False))
    write_csv(out, columns, (["" if pd.isna(value) else value for value in row] for row in rows))
