"""Attributes that all objects made from a radiograph share: patient, study, references and derived UIDs."""

from __future__ import annotations

import copy
import hashlib
import json
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydicom import Dataset
from pydicom.config import RAISE
from pydicom.datadict import dictionary_VR
from pydicom.tag import Tag
from pydicom.uid import UID
from pydicom.valuerep import DT, validate_value

from cxr_mmdet import __version__
from cxr_mmdet.dicom.attributes import items, numbers, text_of, value_of
from cxr_mmdet.errors import DicomError

if TYPE_CHECKING:
    import datetime

    from cxr_mmdet.structures.detections import Box, Findings

MANUFACTURER = "cxr_mmdet"
LAYOUT = "2"
"""Part of the UIDs of reports and captures, raised with their layout: an archive keeps the first object of a UID."""

EMPTY_IF_UNKNOWN = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "ReferringPhysicianName",
    "StudyID",
    "AccessionNumber",
)
"""Attributes of type 2: present in every object, without a value where the radiograph has none."""

CARRIED_IF_KNOWN = (
    "IssuerOfPatientID",
    "PatientBirthTime",
    "OtherPatientIDsSequence",
    "PatientIdentityRemoved",
    "DeidentificationMethod",
    "DeidentificationMethodCodeSequence",
    "ClinicalTrialSponsorName",
    "ClinicalTrialProtocolID",
    "ClinicalTrialProtocolName",
    "ClinicalTrialSiteID",
    "ClinicalTrialSiteName",
    "ClinicalTrialSubjectID",
    "ClinicalTrialSubjectReadingID",
    "ClinicalTrialTimePointID",
    "StudyDescription",
    "IssuerOfAccessionNumberSequence",
    "ProcedureCodeSequence",
    "PatientAge",
    "PatientSize",
    "PatientWeight",
)
"""Further attributes of patient and study, none of the acquisition of an image."""

# An archive files by these texts: they are carried as they are, even where they break a limit of their VR. A date or
# code that breaks the rules would only damage the new object too.
_CHECKED_VRS = frozenset({"AS", "CS", "DA", "DS", "TM"})


@dataclass(frozen=True)
class Origin:
    """The radiograph that an object is made from.

    Attributes:
        header: its dataset; the pixels are not needed.
        sop_class_uid: SOP Class UID.
        sop_instance_uid: SOP Instance UID.
        study_instance_uid: UID of its study, which is the new object's too.
        series_instance_uid: UID of its series.
    """

    header: Dataset
    sop_class_uid: UID
    sop_instance_uid: UID
    study_instance_uid: UID
    series_instance_uid: UID

    @classmethod
    def of(cls, header: Dataset, findings: Findings) -> Origin:
        """Return the origin that a radiograph's dataset describes.

        Raises:
            DicomError: it has no valid UIDs, so that nothing can refer to it, or is another image than the one the
                findings are of.
        """
        for keyword, side in zip(("Rows", "Columns"), findings.size_hw, strict=True):
            if (stated := numbers(header, keyword)) and stated[0] != side:
                raise DicomError(
                    f"the radiograph has {stated[0]:.0f} {keyword.lower()}, the findings are of an image with {side}; "
                    "report them with the radiograph they were found in."
                )
        return cls(
            header,
            _uid(header, "SOPClassUID"),
            _uid(header, "SOPInstanceUID"),
            _uid(header, "StudyInstanceUID"),
            _uid(header, "SeriesInstanceUID"),
        )

    def reference(self) -> Dataset:
        """Return the item of a sequence that refers to the radiograph."""
        reference = Dataset()
        reference.ReferencedSOPClassUID = self.sop_class_uid
        reference.ReferencedSOPInstanceUID = self.sop_instance_uid
        return reference

    def evidence(self) -> Dataset:
        """Return the attributes that highdicom needs of the radiograph; :meth:`fill` copies patient and study."""
        evidence = Dataset()
        for keyword in EMPTY_IF_UNKNOWN:
            setattr(evidence, keyword, None)
        evidence.SOPClassUID = self.sop_class_uid
        evidence.SOPInstanceUID = self.sop_instance_uid
        evidence.StudyInstanceUID = self.study_instance_uid
        evidence.SeriesInstanceUID = self.series_instance_uid
        return evidence

    def fill(self, target: Dataset, *, created: datetime.datetime, description: str) -> None:
        """Write into ``target`` patient, study, equipment, time and the radiograph's instance number."""
        target.SpecificCharacterSet = "ISO_IR 192"  # UTF-8 holds whatever the radiograph's own character set held
        for keyword in EMPTY_IF_UNKNOWN:
            setattr(target, keyword, None)
        for keyword in EMPTY_IF_UNKNOWN + CARRIED_IF_KNOWN:
            _carry(keyword, self.header, target)
        target.StudyInstanceUID = self.study_instance_uid
        number = numbers(self.header, "InstanceNumber")
        target.InstanceNumber = int(number[0]) if number and 1 <= number[0] < 2**31 else 1
        target.Manufacturer = MANUFACTURER
        target.ManufacturerModelName = MANUFACTURER
        target.SoftwareVersions = __version__
        target.SeriesDescription = description
        date, time = created.strftime("%Y%m%d"), created.strftime("%H%M%S.%f")
        target.InstanceCreationDate, target.InstanceCreationTime = date, time
        target.ContentDate, target.ContentTime = date, time
        for equipment in items(target, "ContributingEquipmentSequence"):  # highdicom's own entry has the time of now
            equipment.ContributionDateTime = DT(f"{date}{time}")


def fingerprint(findings: Findings) -> str:
    """Return a digest of everything reported, so that equal findings of one model give equal UIDs."""
    content = {
        "boxes": findings.boxes_xyxy.tolist(),
        "classes": [finding.class_name for finding in findings],
        "scores": findings.scores.tolist(),
        "p_abnormal": findings.p_abnormal,
        "size_hw": list(findings.size_hw),
        "model_id": findings.model_id,
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def outline(box_xyxy: Box) -> list[list[float]]:
    """Return the corners of a box clockwise from the top left one, which also closes the line.

    No half pixel is added: PS3.3 C.18.6 puts 0, 0 at the corner of the first pixel, not at its centre, as our boxes do.
    """
    x_min, y_min, x_max, y_max = box_xyxy
    return [[x_min, y_min], [x_max, y_min], [x_max, y_max], [x_min, y_max], [x_min, y_min]]


def derived_uid(*parts: str) -> UID:
    """Return the UID that follows from ``parts``: a name-based UUID under 2.25 (PS3.5 B.2), the same every time."""
    return UID(f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, json.dumps(parts)).int}")


def _uid(header: Dataset, keyword: str) -> UID:
    uid = UID(text_of(header, keyword))
    if not uid or not uid.is_valid:
        what = f"the invalid {keyword} {str(uid)[:80]!r}" if uid else f"no {keyword}"
        raise DicomError(f"the radiograph has {what}, so no report can refer to it.")
    return uid


def _carry(keyword: str, source: Dataset, target: Dataset) -> None:
    value = value_of(source, keyword)
    if value is None:
        return
    element = source[keyword]
    is_usable = element.VR not in _CHECKED_VRS or _is_valid(element.VR, str(value))
    if dictionary_VR(keyword) != element.VR or not is_usable:
        return
    # A copy: assigning the value would check text again that is carried as it is.
    target[Tag(keyword)] = copy.deepcopy(element)


def _is_valid(vr: str, value: str) -> bool:
    try:
        validate_value(vr, value, RAISE)
    except ValueError:
        return False
    return True
