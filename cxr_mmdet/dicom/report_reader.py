"""Reading the findings back from a structured report of this project."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import highdicom.sr as sr
import numpy as np
from pydicom.sr.codedict import codes as dictionary

from cxr_mmdet.dicom import codes
from cxr_mmdet.dicom.derived import outline
from cxr_mmdet.errors import DicomError
from cxr_mmdet.structures.boxes import as_boxes
from cxr_mmdet.structures.detections import Box, Findings

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from pydicom import Dataset
    from pydicom.sr.coding import Code


def read_report(dataset: Dataset, name: str) -> tuple[Findings, str]:
    """Return what the report says; see :func:`cxr_mmdet.dicom.report.read_structured_report`."""
    try:
        report = sr.ComprehensiveSR.from_dataset(dataset).content
        if not isinstance(report, sr.MeasurementReport):
            raise ValueError("not by template 1500")
        return _findings(report)
    # What is missing or unlike TID 1500 fails anywhere inside highdicom, as any of these.
    except (AttributeError, IndexError, KeyError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise DicomError(f"{name}: is not a report of findings that cxr_mmdet wrote ({error}).") from None


def _findings(report: sr.MeasurementReport) -> tuple[Findings, str]:
    whole = _whole_image(report)
    (image,) = whole.source_images
    (algorithm,) = [
        str(item.value) for item in whole[0].ContentSequence if _is(item.name, dictionary.DCM.AlgorithmName)
    ]
    groups = report.get_planar_roi_measurement_groups(graphic_type=sr.GraphicTypeValues.POLYLINE)
    names = [_class(group) for group in groups]
    class_names = tuple(dict.fromkeys(names))
    findings = Findings(
        boxes_xyxy=as_boxes([_box(group) for group in groups]),
        labels=np.array([class_names.index(name) for name in names], dtype=np.int64),
        scores=np.array(
            [
                _measured(group, codes.score_code(name), codes.DETECTOR_SCORE)
                for group, name in zip(groups, names, strict=True)
            ],
            dtype=np.float64,
        ),
        class_names=class_names,
        p_abnormal=_measured(whole, codes.HIGHEST_SCORE),
        size_hw=_size(report),
        model_id=algorithm,
    )
    return findings, str(image.referenced_sop_instance_uid)


def _whole_image(report: sr.MeasurementReport) -> sr.MeasurementsAndQualitativeEvaluations:
    """Return the group of the whole image, which reports of version 0.2 and before have among those of findings."""
    groups = report.get_image_measurement_groups()
    for container in report[0].ContentSequence:
        if _is(container.name, dictionary.DCM.DerivedImagingMeasurements):
            groups += [
                sr.MeasurementsAndQualitativeEvaluations.from_sequence([item]) for item in container.ContentSequence
            ]
    (whole,) = [group for group in groups if _is(group.finding_type, codes.IMAGE_AS_A_WHOLE)]
    return whole


def _is(concept: Any, code: Code) -> bool:
    return concept is not None and (concept.value, concept.scheme_designator) == (code.value, code.scheme_designator)


def _box(group: Any) -> Box:
    points: NDArray[np.floating] = group.roi.value
    (x_min, y_min), (x_max, y_max) = points.min(axis=0).tolist(), points.max(axis=0).tolist()
    box = (x_min, y_min, x_max, y_max)
    if points.tolist() != outline(box):
        raise ValueError("the outline of a finding is not a box")
    return box


def _class(group: Any) -> str:
    (evaluation,) = [entry for entry in group.get_qualitative_evaluations() if _is(entry.name, codes.DETECTOR_CLASS)]
    return str(evaluation.value.meaning)


def _measured(group: Any, *names: Code) -> float:
    (measurement,) = [entry for entry in group.get_measurements() if any(_is(entry.name, code) for code in names)]
    return float(measurement.value)


def _size(report: sr.MeasurementReport) -> tuple[int, int]:
    (library,) = [item for item in report[0].ContentSequence if _is(item.name, dictionary.DCM.ImageLibrary)]
    (image,) = library.ContentSequence[0].ContentSequence
    sides = {item.name.value: int(item.value) for item in image.ContentSequence}
    return sides[dictionary.DCM.PixelDataRows.value], sides[dictionary.DCM.PixelDataColumns.value]
