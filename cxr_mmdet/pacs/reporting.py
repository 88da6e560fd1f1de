"""From a radiograph to the objects that an archive keeps: structured report, Secondary Capture, presentation state.

Two steps: prediction, and the report of it.
"""

from __future__ import annotations

import logging
import warnings
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cxr_mmdet.dicom.radiograph import read_radiograph
from cxr_mmdet.dicom.report import presentation_state, read_header, secondary_capture, structured_report
from cxr_mmdet.inference.predictor import Thresholds
from cxr_mmdet.pacs.operation import timed
from cxr_mmdet.preparation.images import shrink
from cxr_mmdet.structures.enums import DEFAULT_SCORE_THRESHOLD

if TYPE_CHECKING:
    import datetime
    from collections.abc import Mapping, Sequence

    from pydicom import Dataset

    from cxr_mmdet.dicom.radiograph import Radiograph
    from cxr_mmdet.inference.predictor import Predictor
    from cxr_mmdet.structures.detections import Findings


@dataclass(frozen=True)
class ReportOptions:
    """Options of reports.

    Attributes:
        score_threshold: lowest score that is reported; also below the model's own threshold.
        class_thresholds: lowest score of single classes, by name.
        overlay_size: maximum longer side of the Secondary Capture; smaller radiographs keep their size.
        capture: make a Secondary Capture.
        presentation: make a presentation state.
        jpeg_quality: JPEG quality of the Secondary Capture, 1…100; None: uncompressed, ten times as large.
        max_findings: maximum findings, the highest scores first; None: all.
    """

    score_threshold: float = DEFAULT_SCORE_THRESHOLD
    overlay_size: int = 2048
    capture: bool = True
    jpeg_quality: int | None = 95
    max_findings: int | None = None
    presentation: bool = False
    class_thresholds: Mapping[str, float] = field(default_factory=dict)

    def min_score(self, class_names: Sequence[str]) -> float | dict[str, float]:
        """Return the lowest score that is reported, of all classes or by class."""
        if not self.class_thresholds:
            return self.score_threshold
        return dict.fromkeys(class_names, self.score_threshold) | dict(self.class_thresholds)

    def thresholds(self, own: float) -> Thresholds:
        """Return the thresholds of prediction, by which every finding that is to be reported is found.

        Args:
            own: the model's own score threshold. Above it the findings do not depend on what is reported, so that
                ``p_abnormal`` does not either.
        """
        lowered = {name: score for name, score in self.class_thresholds.items() if score <= own}
        return Thresholds(self.score_threshold if self.score_threshold <= own else None, per_class=lowered or None)

    def limited(self, found: Findings) -> Findings:
        """Return at most ``max_findings`` findings, the highest scores first."""
        return found if self.max_findings is None else found.best(self.max_findings)


@dataclass(frozen=True)
class Prediction:
    """Prediction of one radiograph.

    Attributes:
        dataset: the radiograph's file with its pixel data, parsed once.
        radiograph: the radiograph that was predicted.
        found: the findings by :meth:`ReportOptions.thresholds`.
    """

    dataset: Dataset
    radiograph: Radiograph
    found: Findings


@dataclass(frozen=True)
class Reports:
    """Reports of one radiograph.

    Attributes:
        findings: those that reach the threshold.
        report: the structured report.
        capture: the Secondary Capture; None where it is switched off.
        presentation: the presentation state; None where it is switched off, or for a radiograph in colour.
    """

    findings: Findings
    report: Dataset
    capture: Dataset | None
    presentation: Dataset | None = None


def quiet_libraries() -> None:
    """Silence the DICOM libraries' remarks on odd files, for the whole process.

    Those that matter are in ``Radiograph.warnings``, and the remarks quote what a header says of the patient.
    """
    for library in ("pydicom", "highdicom", "dicomweb_client"):
        warnings.filterwarnings("ignore", module=library)
        logging.getLogger(library).setLevel(logging.ERROR)
    logging.getLogger("pynetdicom").setLevel(logging.WARNING)


def predict_content(predictor: Predictor, content: bytes, name: str, options: ReportOptions) -> Prediction:
    """Return the prediction of a radiograph.

    Args:
        predictor: the model.
        content: content of a DICOM file.
        name: name used in error messages.
        options: see :meth:`ReportOptions.thresholds`.

    Raises:
        DicomError: the content is no radiograph.
    """
    with timed("decode"):
        dataset = read_header(content, name)
        radiograph = read_radiograph(dataset, name=name)
    thresholds = options.thresholds(predictor.score_threshold)
    with timed("predict"):
        (found,) = predictor.predict_radiographs([radiograph], thresholds)
    return Prediction(dataset, radiograph, found)


def describe_findings(prediction: Prediction, options: ReportOptions, created: datetime.datetime) -> Reports:
    """Return the findings as DICOM objects.

    Args:
        prediction: the prediction that is reported.
        options: options of the reports.
        created: time of creation of the objects.

    Raises:
        DicomError: nothing can refer to the radiograph.
    """
    radiograph = prediction.radiograph
    header = radiograph.header
    assert header is not None, "only DICOM files are predicted here"
    found = options.limited(prediction.found)
    min_score = options.min_score(found.class_names)
    findings = found.filter(min_score)
    report = structured_report(findings, header, created=created)
    capture = None
    if options.capture:
        pixels = shrink(radiograph.pixels, 0, radiograph.pixel_aspect)
        long_edge = min(options.overlay_size, max(pixels.shape))
        image = found.draw(pixels, min_score=min_score, long_edge=long_edge)
        capture = secondary_capture(image, findings, header, created=created, jpeg_quality=options.jpeg_quality)
    presentation = None
    if options.presentation and radiograph.is_grey:
        presentation = presentation_state(findings, header, created=created)
    return Reports(findings, report, capture, presentation)
