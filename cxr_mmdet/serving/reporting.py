"""One radiograph through the model to what an archive keeps: structured report and Secondary Capture."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cxr_mmdet.dicom.radiograph import read_radiograph
from cxr_mmdet.dicom.report import read_header, secondary_capture, structured_report
from cxr_mmdet.inference.predictor import Thresholds
from cxr_mmdet.preparation.images import shrink

if TYPE_CHECKING:
    import datetime

    from pydicom import Dataset

    from cxr_mmdet.dicom.radiograph import Radiograph
    from cxr_mmdet.inference.findings import Findings
    from cxr_mmdet.inference.predictor import Predictor


@dataclass(frozen=True)
class ReportOptions:
    """What is reported, and how.

    Attributes:
        score_threshold: findings up to this score are left out.
        overlay_size: the longest side of the Secondary Capture; smaller radiographs keep their size.
        capture: whether to make one.
    """

    score_threshold: float = 0.3
    overlay_size: int = 2048
    capture: bool = True


@dataclass(frozen=True)
class Reports:
    """What is said of one radiograph.

    Attributes:
        findings: above the threshold.
        report: the structured report.
        capture: the Secondary Capture, if wanted.
    """

    findings: Findings
    report: Dataset
    capture: Dataset | None


def make_reports(
    predictor: Predictor, content: bytes, name: str, options: ReportOptions, created: datetime.datetime
) -> Reports:
    """Return the findings of a radiograph as DICOM objects.

    Args:
        predictor: the model.
        content: of a DICOM file.
        name: how messages call it.
        options: what is reported.
        created: the time that is written into the objects.

    Raises:
        DicomError: it is no radiograph, or nothing can refer to it.
    """
    with warnings.catch_warnings():
        # pydicom remarks on every oddity; what matters of it is in the radiograph's own warnings.
        warnings.simplefilter("ignore")
        header = read_header(content, name)
        radiograph = read_radiograph(content, name=name)
        # By the model's own threshold, so that p_abnormal does not depend on what is reported.
        (found,) = predictor.predict_radiographs([radiograph], Thresholds())
        return describe_findings(found, radiograph, header, options, created)


def describe_findings(
    found: Findings, radiograph: Radiograph, header: Dataset, options: ReportOptions, created: datetime.datetime
) -> Reports:
    """Return what the model found as DICOM objects.

    Args:
        found: by the model's own threshold.
        radiograph: in which it was found.
        header: of that radiograph's file.
        options: what is reported.
        created: the time that is written into the objects.

    Raises:
        DicomError: nothing can refer to the radiograph.
    """
    findings = found.at_least(options.score_threshold)
    report = structured_report(findings, header, created=created)
    capture = None
    if options.capture:
        pixels = shrink(radiograph.pixels, 0, radiograph.pixel_aspect)
        picture = findings.draw(pixels, long_edge=min(options.overlay_size, max(pixels.shape)))
        capture = secondary_capture(picture, findings, header, created=created)
    return Reports(findings, report, capture)
