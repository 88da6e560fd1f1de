"""Reports that a reader corrected in a viewer, such as OHIF, as readings of the store."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pydicom
from pydicom.errors import InvalidDicomError
from scipy.optimize import linear_sum_assignment

from cxr_mmdet.annotations.sources.dicom_annotations import SCORE, read_regions
from cxr_mmdet.annotations.table import ONE_READER
from cxr_mmdet.dicom.finding_groups import label_of
from cxr_mmdet.dicom.identity import hash_content, hash_pixels
from cxr_mmdet.dicom.radiograph import read_radiograph
from cxr_mmdet.dicom.report import read_header, read_structured_report
from cxr_mmdet.dicom.source import quiet_pydicom
from cxr_mmdet.errors import CxrError, DatasetError, DicomError
from cxr_mmdet.structures.boxes import as_boxes, iou_matrix
from cxr_mmdet.structures.labels import LABELS_14
from cxr_mmdet.structures.radiograph_files import find_originals, read_bytes
from cxr_mmdet.web.cases import Filter
from cxr_mmdet.web.store import Store, StoredImage
from cxr_mmdet.web.verdicts import Kind, Reading

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from pydicom import Dataset

    from cxr_mmdet.structures.detections import Box, Findings
    from cxr_mmdet.web.verdicts import Verdict

SAME_BOX = 0.05
"""Pixels by which a corner may differ and count as not moved: viewers convert to millimetres and back."""
MIN_IOU = 0.5
"""Overlap from which a box with another text is the finding that it lies on."""


@dataclass(frozen=True)
class MarkedReport:
    """Boxes on a radiograph that somebody stored with a viewer.

    Attributes:
        reader: Person Observer Name; empty where the viewer names nobody.
        sop_instance_uid: of the radiograph.
        marks: text and corners of each box.
        predecessors: SOP Instance UIDs of the reports that it was made from.
        ignored: number of annotations without an area.
        created: date and time, in an order of texts.
    """

    reader: str
    sop_instance_uid: str
    marks: tuple[tuple[str, Box], ...]
    predecessors: tuple[str, ...] = ()
    ignored: int = 0
    created: str = ""


@dataclass(frozen=True)
class ImportSummary:
    """Result of an import.

    Attributes:
        readings: that were added to the store.
        known: readings that the store held already.
        ignored: annotations without an area.
        problems: a sentence per report that was not imported.
    """

    readings: int
    known: int
    ignored: int
    problems: tuple[str, ...]


def import_reports(store: str | Path, paths: Sequence[Path], images: Path, reader: str | None = None) -> ImportSummary:
    """Add corrected reports to a store as finished readings; without any, no store is made.

    A box with the text of a finding, or the one that overlaps it most, is that finding: agreed, or corrected
    where corners or class changed. Findings without a box are rejected, further boxes are missed findings.

    Args:
        store: where the readings go; see :meth:`Store.open`.
        paths: corrected reports and the reports that they were made from, as files or folders.
        images: folder of the radiographs, as for ``prepare_data build``.
        reader: name of all readings' reader; the Person Observer Name of each report by default.

    Raises:
        DatasetError: there is no corrected report, or no radiograph.
    """
    originals: dict[str, tuple[Findings, str]] = {}
    corrected: list[tuple[str, MarkedReport]] = []
    problems: list[str] = []
    for path in _reports(paths):
        try:
            dataset = read_header(path)
            try:
                originals[str(dataset.get("SOPInstanceUID"))] = read_structured_report(dataset, str(path))
            except DicomError:
                corrected.append((str(path), read_marks(dataset, path)))
        except CxrError as error:
            problems.append(str(error))
    if not corrected and not problems:
        raise DatasetError(
            f"{', '.join(map(str, paths))}: no report that a viewer stored; pass it together with the one it corrects."
        )
    radiographs = _radiographs(images)
    found: list[_Correction] = []
    for name, marked in sorted(corrected, key=lambda each: each[1].created):  # a reader's latest reading counts
        try:
            findings = _original(name, marked, originals)
            who = reader or marked.reader
            if not who:
                raise DatasetError(f"{name}: names no reader; pass --reader NAME.")
            if marked.sop_instance_uid not in radiographs:
                raise DatasetError(f"{name}: {images} holds no radiograph {marked.sop_instance_uid}.")
            reading = reading_of(findings, marked)
            image = _stored_image(radiographs[marked.sop_instance_uid], findings, name)
        except CxrError as error:
            problems.append(str(error))
            continue
        found.append(_Correction(image, who, reading, findings))
    added = _add(Store.open(store), found) if found else 0
    ignored = sum(marked.ignored for _, marked in corrected)
    return ImportSummary(added, len(found) - added, ignored, tuple(problems))


@dataclass(frozen=True)
class _Correction:
    """A reader's verdicts on a model's findings, to be kept in a store."""

    image: StoredImage
    reader: str
    reading: Reading
    findings: Findings


def _add(store: Store, corrections: Sequence[_Correction]) -> int:
    """Add what a store does not hold yet, close it, and return the number of readings added.

    A reader may return to what they said before: then it is held only if it was said again after what came between.
    """
    try:
        held: dict[tuple[str, str], list[tuple[Verdict, ...]]] = defaultdict(list)
        for earlier in store.readings():
            held[earlier.image.content_sha256, earlier.reader].append(earlier.verdicts)
        added = 0
        for each in corrections:
            said, later = tuple(each.reading.said), held[each.image.content_sha256, each.reader]
            if said in later:
                del later[: later.index(said) + 1]
                continue
            later.clear()  # what is added now comes after all that is there
            findings = each.findings
            shown = Filter(float(findings.scores.min(initial=1.0)), 1.0)
            number = store.add_prediction(
                each.image, model_id=findings.model_id, seconds=0.0, shown=shown, findings=findings
            )
            store.save_reading(number, reader=each.reader, reading=each.reading, shown=shown, findings=findings)
            added += 1
        return added
    finally:
        store.close()


def read_marks(dataset: Dataset, path: Path) -> MarkedReport:
    """Return the boxes of a report that OHIF or another viewer stored.

    Raises:
        DicomError: it has no boxes, or boxes on several images.
        TableError: a box has no class.
    """
    try:
        reader, regions, _ = read_regions(dataset, path, keep_scores=True)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:  # what a damaged file leads to
        raise DicomError(f"{path}: cannot be read as a structured report ({error}).") from None
    boxes = [(uid, text, box) for uid, text, box, _ in regions if box is not None]
    if len({uid for uid, *_ in boxes}) != 1:
        raise DicomError(f"{path}: is not a structured report with boxes on one radiograph.")
    return MarkedReport(
        "" if reader == ONE_READER else reader,
        str(boxes[0][0]),
        tuple((text, box) for _, text, box in boxes),
        tuple(
            str(instance.ReferencedSOPInstanceUID)
            for study in dataset.get("PredecessorDocumentsSequence", [])
            for series in study.get("ReferencedSeriesSequence", [])
            for instance in series.get("ReferencedSOPSequence", [])
        ),
        len(regions) - len(boxes),
        f"{dataset.get('ContentDate', '')} {dataset.get('ContentTime', '')}",
    )


def reading_of(findings: Findings, marked: MarkedReport) -> Reading:
    """Return the verdicts on findings that a corrected report amounts to.

    Raises:
        ReadingError: a box lies outside the radiograph.
    """
    rows = list(findings)
    overlap = iou_matrix(as_boxes([box for _, box in marked.marks]), findings.boxes_xyxy)
    labels = [label_of(finding.class_name, finding.score) for finding in rows]
    same_text = np.array([[text == label for label in labels] for text, _ in marked.marks], bool).reshape(overlap.shape)
    affinity = np.where(same_text | (overlap >= MIN_IOU), 2.0 * same_text + overlap, 0.0)
    pairs = zip(*linear_sum_assignment(affinity, maximize=True), strict=True)
    partner = {int(finding): int(mark) for mark, finding in pairs if affinity[mark, finding] > 0}
    spelling = {known.casefold(): known for known in (*LABELS_14, *findings.class_names)}
    plain = [SCORE.sub("", text) for text, _ in marked.marks]
    classes = [spelling.get(text.casefold(), text) for text in plain]
    reading = Reading()
    for place, finding in enumerate(rows):
        if place not in partner:
            reading.judge(Kind.absent, finding, class_name=None, box=None, size_hw=findings.size_hw)
            continue
        mark = partner[place]
        box, class_name = marked.marks[mark][1], classes[mark]
        moved = np.abs(np.subtract(box, finding.box_xyxy)).max() > SAME_BOX
        kind = Kind.wrong_box if moved else Kind.agree if class_name == finding.class_name else Kind.wrong_class
        reading.judge(kind, finding, class_name=class_name, box=box, size_hw=findings.size_hw)
    for mark, (_, box) in enumerate(marked.marks):
        if mark not in partner.values():
            reading.judge(Kind.missed, None, class_name=classes[mark], box=box, size_hw=findings.size_hw)
    reading.finish(rows)
    return reading


def _reports(paths: Sequence[Path]) -> Iterator[Path]:
    """Yield the structured reports among files and folders, and damaged DICOM files, which may have been some.

    A folder may hold other files, too.
    """
    for path in paths:
        if not path.is_dir():
            yield path
            continue
        for file in sorted(each for each in path.rglob("*") if each.is_file()):
            try:
                with quiet_pydicom():
                    header = pydicom.dcmread(file, specific_tags=["Modality"], stop_before_pixels=True)
            except (InvalidDicomError, OSError):
                continue
            # pydicom raises whatever the damage leads to.
            except Exception:
                yield file
                continue
            if header.get("Modality") == "SR":
                yield file


def _radiographs(images: Path) -> dict[str, Path]:
    """Return SOP Instance UID → file of the radiographs of a folder."""
    found: dict[str, Path] = {}
    for path in find_originals(images).values():
        try:
            with quiet_pydicom():
                header = pydicom.dcmread(path, specific_tags=["SOPInstanceUID"], stop_before_pixels=True)
        except Exception:  # an image or damaged, of which there are no reports
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
