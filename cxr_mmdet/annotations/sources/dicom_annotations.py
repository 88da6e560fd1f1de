"""Annotations as DICOM: structured reports by TID 1500 of any maker, and segmentations."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pydicom

from cxr_mmdet.annotations.sources.base import ReadOptions, Source, SourceFormat
from cxr_mmdet.annotations.sources.geometry import ellipse_extent, mask_boxes, points_extent
from cxr_mmdet.annotations.sources.rows import json_row, source_of
from cxr_mmdet.annotations.table import ONE_READER, READER_COLUMN, SIZE_COLUMNS
from cxr_mmdet.dicom.codes import DETECTOR_CLASS
from cxr_mmdet.dicom.source import parse_dataset, quiet_pydicom
from cxr_mmdet.errors import CxrError, TableError, counted
from cxr_mmdet.structures.radiograph_files import image_id_of, is_radiograph_file, read_bytes, visible_files

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pydicom import Dataset

    from cxr_mmdet.structures.detections import Box

REPORTS = frozenset(f"1.2.840.10008.5.1.4.1.1.88.{kind}" for kind in (22, 33, 34, 35))
"""Enhanced, Comprehensive, Comprehensive 3D and Extensible SR; others hold no outlines, but text or doses."""
SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.4"
FOLDERS, FILES = 100, 5
"""To recognise a tree, so many folders are looked into, and so many files at either end of each."""

# Codes of PS3.16: TID 1410 and 1411 (groups), TID 1003 and 1004 (observers).
TEMPLATE, GROUP, FINDING, COMMENT = "1500", "125007", "121071", "121106"
TRACKING, PERSON_NAME, DEVICE_NAME = "112039", "121008", "121013"
OHIF_TOOLS = "Cornerstone"
"""Beginning of the tracking identifiers of OHIF's tools."""
SCORE = re.compile(r" [01]\.\d\d$")
"""Score behind the class on a box of this project's reports, which a viewer keeps."""
NOBODY = "unknown"
"""Part of the person's name that OHIF writes where nobody is logged in."""

NOT_IMAGES = ("1.2.840.10008.5.1.4.1.1.88.", "1.2.840.10008.5.1.4.1.1.66.", "1.2.840.10008.5.1.4.1.1.11.")
"""Storage classes of reports, segmentations and presentation states among what a report refers to."""

FEWEST_POINTS = 3
"""Lines of two points are lengths and axes, which enclose nothing."""


def recognise(place: Path) -> Path | None:
    """Return ``place`` where some of its DICOM files are structured reports or segmentations."""
    if place.is_file():
        return place if _kind(place) else None
    for _, (folder, _, names) in zip(range(FOLDERS), os.walk(place), strict=False):
        ordered = sorted(names)
        if any(_kind(Path(folder, name)) for name in dict.fromkeys([*ordered[:FILES], *ordered[-FILES:]])):
            return place
    return None


def _kind(path: Path) -> str:
    """Return the SOP Class UID of a report or segmentation; empty for any other file."""
    try:
        if not is_radiograph_file(path, path.parent):  # by name or content: DICOM or an image
            return ""
        with quiet_pydicom():
            header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["SOPClassUID"])
    except Exception:  # whatever is damaged is for the reader of radiographs to complain about
        return ""
    kind = str(header.get("SOPClassUID", ""))
    return kind if kind in REPORTS or kind == SEGMENTATION else ""


def read(path: Path, options: ReadOptions) -> Source:
    """Return the regions of all reports and segmentations of a tree; who observed is the reader.

    Raises:
        TableError: a report's region has no class or no image, or a segmentation cannot be read.
        DicomError: a file is damaged.
    """
    records: list[dict[str, Any]] = []
    read_by: dict[tuple[str, str], int] = {}
    without_area = 0
    files = [path] if path.is_file() else [file for file in visible_files(path) if _kind(file)]
    ours = set(files)
    of_uid = {uid: file for uid, file in options.images.by_sop_uid.items() if file not in ours}

    def name_of(uid: str) -> str:
        return image_id_of(of_uid[uid]) if uid in of_uid else uid

    for place, file in enumerate(files, start=1):
        with quiet_pydicom():
            dataset = parse_dataset(read_bytes(file), str(file))
            is_segmentation = dataset.SOPClassUID == SEGMENTATION
            reader, found, images = (_read_segmentation if is_segmentation else read_regions)(dataset, file)
        for uid in images:
            read_by.setdefault((name_of(uid), reader), place)
        for uid, name, box, size in found:
            if box is None:
                without_area += 1
            else:
                more = dict(zip(SIZE_COLUMNS, size or (None, None), strict=True)) | {READER_COLUMN: reader}
                records.append(json_row(name_of(uid), place, name, box, more))
    drawn = {(record["image_id"], record[READER_COLUMN]) for record in records}
    records += [
        json_row(image_id, place, more={READER_COLUMN: reader})
        for (image_id, reader), place in read_by.items()
        if (image_id, reader) not in drawn
    ]
    notes = []
    if without_area:
        notes.append(f"{counted(without_area, 'point or line', 'points and lines')} in reports left out: not regions.")
    source = source_of(path, records, options, unit="file", notes=notes)
    return replace(source, images={image_id_of(file): file for file in of_uid.values()})


Found = tuple[str, str, "Box | None", "tuple[int, int] | None"]
"""SOP Instance UID of the image, class, box, and the image's size where it is known."""


def read_regions(dataset: Dataset, file: Path, *, keep_scores: bool = False) -> tuple[str, list[Found], list[str]]:
    """Return the reader, the regions and the images of a report.

    Args:
        dataset: the report.
        file: name used in error messages.
        keep_scores: leave the scores of this project's reports behind the classes.

    Raises:
        TableError: a region has no class or no image, or is none.
    """
    try:
        return _read_report(dataset, file, keep_scores=keep_scores)
    except CxrError:
        raise
    except Exception as error:  # pydicom parses items late, and fails anywhere where they are damaged
        raise TableError(f"{file}: cannot be read as a structured report by TID 1500 ({error}).") from None


def _read_report(dataset: Dataset, file: Path, *, keep_scores: bool) -> tuple[str, list[Found], list[str]]:
    items = list(_walk(dataset))
    people = [item for code in (PERSON_NAME, DEVICE_NAME) for item in items if _concept(item) == code]
    reader = next((text for item in people if (text := _value(item)) and NOBODY not in text.lower()), ONE_READER)
    images = [
        str(reference.ReferencedSOPInstanceUID)
        for study in dataset.get("CurrentRequestedProcedureEvidenceSequence", [])
        for series in study.get("ReferencedSeriesSequence", [])
        for reference in series.get("ReferencedSOPSequence", [])
        if not str(reference.ReferencedSOPClassUID).startswith(NOT_IMAGES)
    ]
    found: list[Found] = []
    for group in items:
        if _concept(group) != GROUP:
            continue
        content = list(_walk(group))
        regions = [item for item in content if item.get("ValueType") == "SCOORD"]
        outlines: dict[tuple[str, Box | None], None] = {}
        for region in regions:
            shown = [item for item in [*_walk(region), *content] if item.get("ValueType") == "IMAGE"]
            uids = [item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID for item in shown] or images
            if not uids:
                raise TableError(f"{file}: a region refers to no image; expected the radiograph it was drawn on.")
            # Several measurements of a group may each hold the same region.
            outlines[str(uids[0]), _box(region)] = None
        name = _class(group, keep_scores=keep_scores)
        if not name and any(box is not None for _, box in outlines):
            raise TableError(f"{file}: a region has neither Finding nor Comment; name its finding in the viewer.")
        found += [(uid, name, box, None) for uid, box in outlines]
    template = (dataset.get("ContentTemplateSequence") or [{}])[0].get("TemplateIdentifier")
    # A report of another kind without outlines is no reading of the classes.
    return reader, found, images if found or template == TEMPLATE else []


def _walk(dataset: Dataset) -> Iterator[Dataset]:
    for item in dataset.get("ContentSequence", []):
        yield item
        yield from _walk(item)


def _concept(item: Dataset) -> str:
    names = item.get("ConceptNameCodeSequence") or [{}]
    return str(names[0].get("CodeValue", ""))


def _value(item: Dataset) -> str:
    """Return a code's meaning, a text or a person's name."""
    codes = item.get("ConceptCodeSequence") or [{}]
    text = codes[0].get("CodeMeaning") or item.get("TextValue") or _person(item.get("PersonName"))
    return str(text).strip()


def _person(name: Any) -> str:
    return " ".join(str(name or "").replace("^", " ").split())


def _class(group: Dataset, *, keep_scores: bool) -> str:
    """Return the class of a group; what OHIF's user types is a comment, while the finding stays what it was."""
    items = {_concept(item): _value(item) for item in reversed(group.get("ContentSequence", []))}
    if not keep_scores:
        items[COMMENT] = SCORE.sub("", items.get(COMMENT, ""))
    texts = (COMMENT, FINDING) if items.get(TRACKING, "").startswith(OHIF_TOOLS) else (FINDING, COMMENT)
    return next((items[code] for code in (DETECTOR_CLASS.value, *texts) if items.get(code)), "")


def _box(region: Dataset) -> Box | None:
    """Return the box around a region (PS3.3 C.18.6.1.2); None for a point or a line."""
    sides = [float(side) for side in region.GraphicData]
    points = list(zip(sides[::2], sides[1::2], strict=True))
    if region.GraphicType == "CIRCLE":
        (x, y), (edge_x, edge_y) = points
        radius = ((edge_x - x) ** 2 + (edge_y - y) ** 2) ** 0.5
        return (x - radius, y - radius, x + radius, y + radius)
    if region.GraphicType == "ELLIPSE":
        return ellipse_extent(points[:2], points[2:])
    return points_extent(points) if region.GraphicType != "POINT" and len(points) >= FEWEST_POINTS else None


def _read_segmentation(dataset: Dataset, file: Path) -> tuple[str, list[Found], list[str]]:
    """Return the reader, the regions and the images of a segmentation: a box around each connected part."""
    try:
        from highdicom.seg import Segmentation
    except ImportError:
        raise TableError(f"{file}: reading segmentations needs highdicom; install cxr-mmdet[pacs].") from None
    try:
        segmentation = Segmentation.from_dataset(dataset, copy=False)
        images = [str(uid) for _, _, uid in segmentation.get_source_image_uids()]
        found: list[Found] = []
        for number in segmentation.segment_numbers:
            name = str(segmentation.get_segment_description(number).segment_label)
            for uid in images:
                masks = segmentation.get_pixels_by_source_instance(
                    [uid], [number], ignore_spatial_locations=True, assert_missing_frames_are_empty=True
                )
                mask = masks[0, :, :, 0]
                found += [(uid, name, box, (mask.shape[0], mask.shape[1])) for box in mask_boxes(mask)]
    except Exception as error:  # what is unlike PS3.3 A.51 fails anywhere inside highdicom
        raise TableError(f"{file}: cannot be read as a segmentation of radiographs ({error}).") from None
    return _person(dataset.get("ContentCreatorName")) or ONE_READER, found, images


FORMAT = SourceFormat(
    name="dicom",
    title="DICOM structured reports and segmentations",
    recognise=recognise,
    read=read,
    coverage_rule="A radiograph that a report or segmentation refers to was read for all classes of the tree, because "
    "viewers save what was drawn after reading; one without either is unknown.",
    looks_for="DICOM structured reports (TID 1500) or segmentations",
)
