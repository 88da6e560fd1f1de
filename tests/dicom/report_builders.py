"""Findings, radiographs and judges for the tests of what is made of them."""

from __future__ import annotations

import datetime
import subprocess
from io import BytesIO
from typing import TYPE_CHECKING, Any

from highdicom.sr import CodedConcept
from pydicom import Dataset, dcmread
from pydicom.data import get_testdata_file
from pydicom.dataset import FileMetaDataset
from pydicom.sr.codedict import codes
from pydicom.uid import (
    ComputedRadiographyImageStorage,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    generate_uid,
)

from cxr_mmdet.dicom.codes import DETECTOR_SCORE
from cxr_mmdet.dicom.report import read_header, structured_report, to_bytes
from cxr_mmdet.phantom.cases import plan_case
from cxr_mmdet.phantom.dicom_file import draw_encoding, write_dicom
from cxr_mmdet.phantom.render import render_phantom
from cxr_mmdet.structures.detections import Findings
from cxr_mmdet.structures.labels import LABELS_14

if TYPE_CHECKING:
    from pathlib import Path

CREATED = datetime.datetime(2026, 1, 2, 3, 4, 5, 600)


def found(boxes: Any, labels: Any = None, scores: Any = None, **changes: Any) -> Findings:
    count = len(boxes)
    facts = {
        "class_names": LABELS_14,
        "size_hw": (300, 200),
        "p_abnormal": 0.75,
        "model_id": "retina_5cls-0123456789ab",
    }
    return Findings(
        boxes_xyxy=boxes,
        labels=range(count) if labels is None else labels,
        scores=[1 / (number + 3) for number in range(count)] if scores is None else scores,
        **facts | changes,
    )


NOTHING = found([], p_abnormal=0.0)
BOXES = [
    [0, 0, 200, 300],  # all of it
    [12.3456789, 0.1, 13.3456789, 1 / 3],
    [199, 299, 200, 300],  # the last pixel
    [0.5, 10.25, 99.75, 20],
]
SOME = found(BOXES, [3, 8, 8, 13])


def radiograph(**attributes: Any) -> Dataset:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = ComputedRadiographyImageStorage
    for keyword in ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"):
        setattr(dataset, keyword, generate_uid(entropy_srcs=[keyword]))
    dataset.Rows, dataset.Columns = 300, 200
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    return dataset


def old_report(findings: Findings, source: Dataset) -> Dataset:
    """Return a report by the layout of versions up to 0.2: the whole image's group first, boxes and scores apart."""
    report = dcmread(BytesIO(to_bytes(structured_report(findings, source, created=CREATED))))
    *_, derived = report.ContentSequence
    (whole,) = derived.ContentSequence
    groups = []
    if len(findings):
        groups = list(report.ContentSequence[-2].ContentSequence)
        del report.ContentSequence[-2]
    for number, group in enumerate(groups, 1):
        group.ContentSequence[0].TextValue = f"finding {number}"
        (score,) = (item for item in group.ContentSequence if item.ValueType == "NUM")
        score.ConceptNameCodeSequence = [CodedConcept.from_code(DETECTOR_SCORE)]
        del score.ContentSequence
        *_, comment = group.ContentSequence
        group.ContentSequence.remove(comment)
    derived.ConceptNameCodeSequence = [CodedConcept.from_code(codes.DCM.ImagingMeasurements)]
    derived.ContentSequence = [whole, *groups]
    return report


def run_tool(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def errors_of(path: Path) -> list[str]:
    done = subprocess.run(["dciodvfy", str(path)], capture_output=True, text=True, check=False)
    lines = (done.stdout + done.stderr).splitlines()
    assert any(
        line.strip() in ("ComprehensiveSR", "SCImage", "GrayscaleSoftcopyPresentationState") for line in lines
    ), lines[:5]
    return [line for line in lines if line.startswith(("Error", "Abort"))]


def phantom_file(folder: Path, index: int, size: int = 96) -> Path:
    case = plan_case(3, index, abnormal_share=0.5, labels=LABELS_14)
    path = folder / f"{index}.dcm"
    write_dicom(path, render_phantom(case, size=size), draw_encoding(case))
    return path


def sources(folder: Path) -> list[Dataset]:
    """Return headers of computed and digital radiographs, of a real one, and of one with next to nothing in it."""
    phantoms = [read_header(phantom_file(folder, index)) for index in range(4)]
    assert {header.SOPClassUID for header in phantoms} == {
        ComputedRadiographyImageStorage,
        DigitalXRayImageStorageForPresentation,
    }
    real = get_testdata_file("RG1_UNCR.dcm", download=False)
    return [*phantoms, radiograph(), *([dcmread(real)] if real else [])]
