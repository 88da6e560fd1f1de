"""DICOM codes of findings: public codes where one exists, otherwise those of one private scheme.

Every public code here stands in the concept dictionary that pydicom takes from PS3.16; a test looks each of them up.
Where the dictionary has no code of the same meaning (consolidation, pleural thickening, nodule *or* mass ...), the
finding gets a private one and no public code is bent to fit.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

from pydicom.sr.coding import Code

from cxr_mmdet.errors import DicomError

PRIVATE_SCHEME = "99CXRMMDET"
"""Designators that begin with 99 are private (PS3.3 8.2)."""
PRIVATE_SCHEME_NAME = "cxr_mmdet detector classes and scores"

DETECTOR_CLASS = Code("CLASS", PRIVATE_SCHEME, "Detector class")
DETECTOR_SCORE = Code("SCORE", PRIVATE_SCHEME, "Detector score, 0 to 1, not a probability")
"""Of all classes, in reports of version 0.2 and before; now :func:`score_code`."""
HIGHEST_SCORE = Code("P-ABNORMAL", PRIVATE_SCHEME, "Score of any abnormality, 0 to 1")
IMAGE_AS_A_WHOLE = Code("WHOLE-IMAGE", PRIVATE_SCHEME, "Image as a whole")

NO_UNITS = Code("1", "UCUM", "no units")
PLAIN_RADIOGRAPHY = Code("168537006", "SCT", "Plain radiography")

_CHEST = Code("816094009", "SCT", "Chest")
_AORTA = Code("15825003", "SCT", "Aorta")
_HEART = Code("80891009", "SCT", "Heart")
_LUNG = Code("39607008", "SCT", "Lung")
_PLEURA = Code("3120008", "SCT", "Pleura")


class FindingCode(NamedTuple):
    """Public code and site of a finding; None where there is no code or no fixed site."""

    finding: Code | None
    site: Code | None


FINDING_CODES: dict[str, FindingCode] = {
    "aortic enlargement": FindingCode(None, _AORTA),
    "atelectasis": FindingCode(None, _LUNG),
    "calcification": FindingCode(Code("112063", "DCM", "Abnormal calcifications"), None),
    "cardiomegaly": FindingCode(Code("287272002", "SCT", "Cardiomegaly"), _HEART),
    "consolidation": FindingCode(None, _LUNG),
    # The label names a group of diseases; what a radiograph shows is their pattern.
    "ild": FindingCode(Code("112004", "DCM", "Abnormal interstitial pattern"), _LUNG),
    "infiltration": FindingCode(Code("112121", "DCM", "Infiltrate"), _LUNG),
    "lung opacity": FindingCode(Code("112033", "DCM", "Abnormal opacity"), _LUNG),
    "mass": FindingCode(Code("4147007", "SCT", "Mass"), None),
    "nodule": FindingCode(Code("27925004", "SCT", "Nodule"), None),
    "nodule/mass": FindingCode(None, None),
    "other lesion": FindingCode(Code("52988006", "SCT", "Lesion"), None),
    "pleural effusion": FindingCode(Code("60046008", "SCT", "Pleural effusion"), _PLEURA),
    "pleural thickening": FindingCode(None, _PLEURA),
    "pneumothorax": FindingCode(Code("36118008", "SCT", "Pneumothorax"), _PLEURA),
    "pulmonary fibrosis": FindingCode(Code("112674009", "SCT", "Fibrosis"), _LUNG),
}
"""By class name in lower case."""

MAX_MEANING = 64
"""Characters of a code's meaning (VR LO)."""


def class_code(class_name: str) -> Code:
    """Return the private code of a detector's class; its meaning is the class name, character for character.

    Raises:
        DicomError: DICOM cannot hold the name.
    """
    if class_name != class_name.strip() or not 0 < len(class_name) <= MAX_MEANING or "\\" in class_name:
        raise DicomError(
            f"class {class_name!r}: cannot be the meaning of a DICOM code, which has 1 to {MAX_MEANING} characters, no "
            "backslash and no blanks around it; rename the class."
        )
    return Code(hashlib.sha256(class_name.encode()).hexdigest()[:12].upper(), PRIVATE_SCHEME, class_name)


def score_code(class_name: str) -> Code:
    """Return the private code of a class's score, 0 to 1, not a probability.

    Each class has its own, since viewers write the name of a number on the box, and nothing else of the finding.
    """
    code = class_code(class_name)
    return Code(f"S-{code.value}", PRIVATE_SCHEME, f"{class_name} score"[:MAX_MEANING].strip())


def finding_code(class_name: str) -> Code:
    """Return the public code of a class, or else its private one."""
    return _known(class_name).finding or class_code(class_name)


def finding_site(class_name: str) -> Code:
    """Return the organ that the class name implies, or else the chest: 3D Slicer requires a site of each finding."""
    return _known(class_name).site or _CHEST


def _known(class_name: str) -> FindingCode:
    return FINDING_CODES.get(class_name.casefold(), FindingCode(None, None))
