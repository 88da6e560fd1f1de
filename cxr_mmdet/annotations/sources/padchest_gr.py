"""PadChest-GR: sentences of reports with boxes in fractions of the image."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from cxr_mmdet.annotations.coverage import coverage_frame
from cxr_mmdet.annotations.sources.base import ReadOptions, Source, SourceFormat
from cxr_mmdet.annotations.sources.rows import find_json, is_box, json_row, read_json, source_of
from cxr_mmdet.annotations.table import READER_COLUMN, SIZE_COLUMNS
from cxr_mmdet.errors import TableError, counted
from cxr_mmdet.structures.coverage import Coverage
from cxr_mmdet.structures.labels import NO_FINDING
from cxr_mmdet.structures.radiograph_files import image_id_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

READERS = {"boxes": "R1", "extra_boxes": "R2"}
"""Key of the boxes and name of the reader; the second read part of the set."""

NOTIONAL_HW = (1000, 1000)
"""Size that stands in for an image which is not there, where the boxes alone are read."""


def read(path: Path, options: ReadOptions) -> Source:
    """Return the boxes of abnormal findings, one row for each of a finding's labels.

    Raises:
        TableError: a study has no image's name, or a box is not in fractions of the image.
    """
    records: list[dict[str, Any]] = []
    unplaced: dict[str, set[str]] = defaultdict(set)
    normal: set[str] = set()
    for place, study in enumerate(read_json(path, list, "list of studies with ImageID and findings"), start=1):
        where = f"{path}, image {place}"
        if not isinstance(study, dict) or not isinstance(study.get("ImageID"), str):
            raise TableError(f"{where}: has no ImageID; expected StudyID, ImageID and findings.")
        image_id = image_id_of(study["ImageID"])
        image = options.images.find(study["ImageID"])
        height, width = NOTIONAL_HW if image is None else options.images.size_hw(image)
        sizes = dict(zip(SIZE_COLUMNS, (height, width), strict=True))
        more: dict[str, Any] = {**sizes, "group": str(study.get("StudyID", image_id))}
        drawn, findings = 0, list(_findings(study.get("findings"), where))
        if not findings:
            normal.add(image_id)
        for name, box, reader in findings:
            if box is None:
                unplaced[image_id] |= {name} - {""}
                continue
            pixels = np.multiply(box, (width, height) * 2).tolist()
            records.append(json_row(image_id, place, name, pixels, more | {READER_COLUMN: reader}))
            drawn += reader == READERS["boxes"]
        if not drawn:
            records.append(json_row(image_id, place, more=more | {READER_COLUMN: READERS["boxes"]}))
    source = replace(source_of(path, records, options, unit="image"), normal=frozenset(normal))
    if not unplaced:
        return source
    names = sorted({*source.rows["class_name"], *(name for some in unplaced.values() for name in some)} - {NO_FINDING})
    coverage = coverage_frame(source.rows["image_id"].unique().tolist(), names)
    for image_id, some in unplaced.items():
        coverage.loc[image_id, sorted(some)] = Coverage.NOT_EXHAUSTIVE
    note = (
        f"{counted(len(unplaced), 'image')} with a finding without a box or label: not marked exhaustively, not normal."
    )
    return replace(source, coverage=coverage, notes=(*source.notes, note))


def _findings(findings: Any, where: str) -> Iterator[tuple[str, list[float] | None, str]]:
    """Yield class, box and reader of what is abnormal; no box where it is not placed, no class without a label."""
    for finding in _listed(findings, "findings", where):
        # Sentences on what is normal have no labels, and some no further key.
        if not isinstance(finding, dict) or not finding.get("abnormal"):
            continue
        names = [str(name) for name in _listed(finding.get("labels"), "labels", where)]
        boxes = [(box, reader) for key, reader in READERS.items() for box in _listed(finding.get(key), key, where)]
        for box, _ in boxes:
            if not is_box(box) or not all(0 <= side <= 1 for side in box):
                raise TableError(
                    f"{where}: has the box {box!r}; expected [x_min, y_min, x_max, y_max] in fractions of the image, "
                    "0…1; divide x by its width and y by its height."
                )
        for name in dict.fromkeys(names) or [""]:
            placed = boxes if name else []
            yield from ((name, box, reader) for box, reader in placed)
            if not placed:
                yield name, None, READERS["boxes"]


def _listed(value: Any, key: str, where: str) -> list[Any]:
    if not isinstance(value, list | None):
        raise TableError(f"{where}: its {key} are {value!r}, expected a list.")
    return value or []


FORMAT = SourceFormat(
    name="padchest-gr",
    title="PadChest-GR",
    recognise=partial(find_json, pattern=r'^\s*\[\s*\{[^\[]*"ImageID"\s*:[^\[]*"findings"\s*:'),
    read=read,
    coverage_rule="A report names everything its radiologist saw, so classes that it does not name are absent; those "
    "named without a box are present and not marked exhaustively.",
    looks_for="grounded_reports_….json, a list of studies with ImageID and findings",
)
