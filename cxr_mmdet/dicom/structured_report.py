"""Findings as a Comprehensive SR by template TID 1500, made with highdicom."""

from __future__ import annotations

from typing import TYPE_CHECKING

import highdicom.sr as sr
from highdicom.coding_schemes import CodingSchemeIdentificationItem
from pydicom.sr.codedict import codes as dictionary

from cxr_mmdet.dicom import codes
from cxr_mmdet.dicom.derived import LAYOUT, MANUFACTURER, Origin, derived_uid, fingerprint
from cxr_mmdet.dicom.finding_groups import algorithm, append_finding_groups, tracking_uid
from cxr_mmdet.errors import DicomError

if TYPE_CHECKING:
    import datetime

    from pydicom import Dataset

    from cxr_mmdet.structures.detections import Findings


DESCRIPTION = "cxr_mmdet findings (research use only)"
SERIES_NUMBER = 9301


def build_structured_report(findings: Findings, source: Dataset, created: datetime.datetime) -> Dataset:
    """Return the report; see :func:`cxr_mmdet.dicom.report.structured_report`."""
    origin = Origin.of(source, findings)
    document = fingerprint(findings)
    uid = derived_uid("SR", LAYOUT, origin.sop_instance_uid, document)
    try:
        report = sr.ComprehensiveSR(
            evidence=[origin.evidence()],
            content=_content(findings, origin, document),
            # A series per radiograph: OHIF shows the last report of a series, and a study has a lateral view, too.
            series_instance_uid=derived_uid("SR series", LAYOUT, origin.sop_instance_uid, findings.model_id),
            series_number=SERIES_NUMBER,
            sop_instance_uid=uid,
            instance_number=1,
            manufacturer=MANUFACTURER,
            is_complete=True,
            is_final=False,
            coding_schemes=[
                CodingSchemeIdentificationItem(
                    codes.PRIVATE_SCHEME, name=codes.PRIVATE_SCHEME_NAME, responsible_organization=MANUFACTURER
                )
            ],
        )
    except KeyError:  # highdicom looks the class up in the standard's tables
        raise DicomError(
            f"the radiograph is of the kind {origin.sop_class_uid.name!r}, which no structured report can refer to."
        ) from None
    if len(findings):
        append_finding_groups(report, findings, origin, document)
    origin.fill(report, created=created, description=DESCRIPTION)
    return report


def _content(findings: Findings, origin: Origin, document: str) -> sr.MeasurementReport:
    """Return all but the findings."""
    observer = sr.ObserverContext(
        observer_type=dictionary.DCM.Device,
        observer_identifying_attributes=sr.DeviceObserverIdentifyingAttributes(
            uid=derived_uid("device", findings.model_id),
            name=findings.model_id,
            manufacturer_name=MANUFACTURER,
            model_name=MANUFACTURER,
        ),
    )
    report = sr.MeasurementReport(
        observation_context=sr.ObservationContext(observer_device_context=observer),
        procedure_reported=codes.PLAIN_RADIOGRAPHY,
        imaging_measurements=[_whole_image(findings, origin, document)],
        title=dictionary.DCM.ImagingMeasurementReport,
    )
    # Among Imaging Measurements OHIF expects coordinates in every group, which the facts of the whole image have not.
    (*_, measurements) = report[0].ContentSequence
    measurements.ConceptNameCodeSequence = [sr.CodedConcept.from_code(dictionary.DCM.DerivedImagingMeasurements)]
    # TID 1500 has the library before the measurements, which come last.
    report[0].ContentSequence.insert(len(report[0].ContentSequence) - 1, _library(findings, origin))
    return report


def _library(findings: Findings, origin: Origin) -> sr.ContainerContentItem:
    """Return TID 1600 with the one image; highdicom's own refuses radiographs that lack optional attributes."""
    contains, context = sr.RelationshipTypeValues.CONTAINS, sr.RelationshipTypeValues.HAS_ACQ_CONTEXT
    pixels = sr.CodedConcept("{pixels}", "UCUM", "Pixels")
    image = sr.ImageContentItem(
        name=sr.CodedConcept("260753009", "SCT", "Source"),
        referenced_sop_class_uid=origin.sop_class_uid,
        referenced_sop_instance_uid=origin.sop_instance_uid,
        relationship_type=contains,
    )
    image.ContentSequence = sr.ContentSequence(
        [
            sr.NumContentItem(name=name, value=side, unit=pixels, relationship_type=context)
            for name, side in zip(
                (dictionary.DCM.PixelDataRows, dictionary.DCM.PixelDataColumns), findings.size_hw, strict=True
            )
        ]
    )
    group = sr.ContainerContentItem(name=dictionary.DCM.ImageLibraryGroup, relationship_type=contains)
    group.ContentSequence = sr.ContentSequence([image])
    library = sr.ContainerContentItem(name=dictionary.DCM.ImageLibrary, relationship_type=contains)
    library.ContentSequence = sr.ContentSequence([group])
    return library


def _whole_image(findings: Findings, origin: Origin, document: str) -> sr.MeasurementsAndQualitativeEvaluations:
    """Return the group that also a radiograph without findings has (TID 1501)."""
    return sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(uid=tracking_uid("image", origin, document), identifier="image"),
        finding_type=codes.IMAGE_AS_A_WHOLE,
        algorithm_id=algorithm(findings.model_id),
        measurements=[sr.Measurement(codes.HIGHEST_SCORE, float(findings.p_abnormal), codes.NO_UNITS)],
        source_images=[sr.SourceImageForMeasurementGroup(origin.sop_class_uid, origin.sop_instance_uid)],
    )
