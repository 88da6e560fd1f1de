"""Reports that a reader corrected in a viewer, such as OHIF, as readings of the store."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pydicom
from pydicom.errors import InvalidDicomError
from scipy.optimize import linear_sum_assignment

from cxr_mmdet.dicom.finding_groups import label_of
from cxr_mmdet.dicom.identity import hash_content, hash_pixels
from cxr_mmdet.dicom.radiograph import read_radiograph
from cxr_mmdet.dicom.report import read_header, read_structured_report
from cxr_mmdet.dicom.report_reader import read_marks
from cxr_mmdet.dicom.source import quiet_pydicom
from cxr_mmdet.errors import CxrError, DatasetError, DicomError
from cxr_mmdet.structures.boxes import as_boxes, iou_matrix
from cxr_mmdet.structures.labels import LABELS_14
from cxr_mmdet.structures.radiograph_files import find_originals, read_bytes
from cxr_mmdet.web.cases import Filter
from cxr_mmdet.web.store import StoredImage
from cxr_mmdet.web.verdicts import Kind, Reading

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from cxr_mmdet.dicom.report_reader import MarkedReport
    from cxr_mmdet.structures.detections import Findings
    from cxr_mmdet.web.store import Store

SAME_BOX = 0.05
"""Pixels by which a corner may differ and count as not moved: viewers convert to millimetres and back."""
MIN_IOU = 0.5
"""Overlap from which a rectangle with another text is the finding that it lies on."""


@dataclass(frozen=True)
class ImportSummary:
    """Result of an import.

    Attributes:
        readings: that were added to the store.
        known: readings that the store held already.
        ignored: annotations that are no rectangles.
        problems: a sentence per report that was not imported.
    """

    readings: int
    known: int
    ignored: int
    problems: tuple[str, ...]


def import_reports(store: Store, paths: Sequence[Path], images: Path, reader: str | None = None) -> ImportSummary:
    """Add corrected reports to a store as finished readings.

    A rectangle with the text of a finding, or the one that overlaps it most, is that finding: agreed, or corrected
    where corners or class changed. Findings without a rectangle are rejected, further rectangles are missed findings.

    Args:
        store: where the readings go.
        paths: corrected reports and the reports that they were made from, as files or folders.
        images: folder of the radiographs, as for ``prepare_data build``.
        reader: name of all readings' reader; the Person Observer Name of each report by default.

    Raises:
        DatasetError: there is no corrected report, or no radiograph.
    """
    originals: dict[str, tuple[Findings, str]] = {}
    corrected: list[tuple[str, MarkedReport]] = []
    problems: list[str] = []
    for path, dataset in _reports(paths):
        try:
            originals[str(dataset.get("SOPInstanceUID"))] = read_structured_report(dataset, str(path))
        except DicomError:
            try:
                corrected.append((str(path), read_marks(dataset, str(path))))
            except DicomError as error:
                problems.append(str(error))
    if not corrected and not problems:
        raise DatasetError(
            f"{', '.join(map(str, paths))}: no report that a viewer stored; pass it together with the one it corrects."
        )
    radiographs = _radiographs(images)
    held = {(each.image.content_sha256, each.reader, each.verdicts) for each in store.readings()}
    added = known = 0
    for name, marked in sorted(corrected, key=lambda each: each[1].created):  # a reader's latest reading counts
        try:
            findings = _original(name, marked, originals)
            who = reader or marked.reader
            if not who:
                raise DatasetError(f"{name}: names no reader; pass --reader NAME.")
            if marked.sop_instance_uid not in radiographs:
                raise DatasetError(f"{name}: {images} holds no radiograph {marked.sop_instance_uid}.")
            reading = reading_of(findings, marked, name)
            image = _stored_image(radiographs[marked.sop_instance_uid], findings, name)
        except CxrError as error:
            problems.append(str(error))
            continue
        key = image.content_sha256, who, tuple(reading.said)
        if key in held:
            known += 1
            continue
        shown = Filter(float(findings.scores.min(initial=1.0)), 1.0)
        number = store.add_prediction(image, model_id=findings.model_id, seconds=0.0, shown=shown, findings=findings)
        store.save_reading(number, reader=who, reading=reading, shown=shown, findings=findings)
        held.add(key)
        added += 1
    return ImportSummary(added, known, sum(marked.ignored for _, marked in corrected), tuple(problems))


def reading_of(findings: Findings, marked: MarkedReport, name: str) -> Reading:
    """Return the verdicts on findings that a corrected report amounts to.

    Raises:
        DicomError: a rectangle has no text, so that its class is unknown.
        ReadingError: a rectangle lies outside the radiograph.
    """
    rows = list(findings)
    boxes = as_boxes([box for _, box in marked.marks])
    overlap = iou_matrix(boxes, findings.boxes_xyxy)
    labels = [label_of(finding.class_name, finding.score) for finding in rows]
    same_text = np.array([[text == label for label in labels] for text, _ in marked.marks], bool).reshape(overlap.shape)
    affinity = np.where(same_text | (overlap >= MIN_IOU), 2.0 * same_text + overlap, 0.0)
    pairs = zip(*linear_sum_assignment(affinity, maximize=True), strict=True)
    partner = {int(finding): int(mark) for mark, finding in pairs if affinity[mark, finding] > 0}
    classes = {known.casefold(): known for known in (*LABELS_14, *findings.class_names)}
    reading = Reading()
    for place, finding in enumerate(rows):
        if place not in partner:
            reading.judge(Kind.absent, finding, class_name=None, box=None, size_hw=findings.size_hw)
            continue
        text, box = marked.marks[partner[place]]
        class_name = finding.class_name if same_text[partner[place], place] else _class_of(text, classes, name)
        moved = np.abs(np.subtract(box, finding.box_xyxy)).max() > SAME_BOX
        kind = Kind.wrong_box if moved else Kind.agree if class_name == finding.class_name else Kind.wrong_class
        reading.judge(kind, finding, class_name=class_name, box=box, size_hw=findings.size_hw)
    for place, (text, box) in enumerate(marked.marks):
        if place not in partner.values():
            class_name = _class_of(text, classes, name)
            reading.judge(Kind.missed, None, class_name=class_name, box=box, size_hw=findings.size_hw)
    reading.finish(rows)
    return reading


def _class_of(text: str, classes: dict[str, str], name: str) -> str:
    """Return the class in the text of a rectangle, without a score behind it and in the usual spelling."""
    plain = re.sub(r"\s+[01]\.\d+$", "", text)
    if not plain:
        raise DicomError(f"{name}: a rectangle has no label; name its class in the viewer and store the report again.")
    return classes.get(plain.casefold(), plain)


def _reports(paths: Sequence[Path]) -> Iterator[tuple[Path, pydicom.Dataset]]:
    """Yield the structured reports among files and folders."""
    for path in paths:
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if path.is_dir():
                try:
                    if pydicom.dcmread(file, specific_tags=["Modality"], stop_before_pixels=True).Modality != "SR":
                        continue
                except (InvalidDicomError, OSError, AttributeError):  # a folder holds other files, too
                    continue
            yield file, read_header(file)


def _radiographs(images: Path) -> dict[str, Path]:
    """Return SOP Instance UID → file of the radiographs of a folder."""
    found: dict[str, Path] = {}
    for path in find_originals(images).values():
        try:
            with quiet_pydicom():
                header = pydicom.dcmread(path, specific_tags=["SOPInstanceUID"], stop_before_pixels=True)
        except InvalidDicomError:  # a picture, of which there are no reports
            continue
        found[str(header.get("SOPInstanceUID"))] = path
    return found


def _original(name: str, marked: MarkedReport, originals: dict[str, tuple[Findings, str]]) -> Findings:
    """Return the findings that a report corrects."""
    named = [originals[uid][0] for uid in marked.predecessors if uid in originals]
    found = named or [findings for findings, image in originals.values() if image == marked.sop_instance_uid]
    if len(found) != 1:
        which = "none" if not found else f"{len(found)}"
        raise DatasetError(
            f"{name}: {which} of the reports given is the one that it corrects, on radiograph "
            f"{marked.sop_instance_uid}; pass the model's report that was opened in the viewer."
        )
    return found[0]


def _stored_image(path: Path, findings: Findings, name: str) -> StoredImage:
    content = read_bytes(path)
    with quiet_pydicom():
        radiograph = read_radiograph(path)
    if radiograph.pixels.shape != findings.size_hw:
        raise DatasetError(f"{name}: was made from a radiograph of {findings.size_hw}, {path} has another size.")
    return StoredImage(hash_content(content), hash_pixels(radiograph.pixels), findings.size_hw)
