"""Images by what they show: hashes that name a radiograph without naming a patient."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from cxr_mmdet.dicom.radiograph import read_radiograph
from cxr_mmdet.dicom.source import parse_dataset

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from pydicom import Dataset

    from cxr_mmdet.dicom.radiograph import Radiograph

_COMPARABLE = frozenset({ExplicitVRLittleEndian, ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian})
"""Transfer syntaxes in which equal pixels are stored as equal bytes."""


def hash_content(content: bytes) -> str:
    """Return the SHA-256 of a file."""
    return hashlib.sha256(content).hexdigest()


def hash_pixels(pixels: NDArray[np.uint8]) -> str:
    """Return the SHA-256 of a radiograph's size and grey levels, as :func:`read_radiograph` gives them.

    It outlives what changes a file but not its image: other encodings, and headers with the patient taken out.
    """
    height, width = pixels.shape
    digest = hashlib.sha256(f"{height} {width} ".encode())
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.hexdigest()


def identify(dataset: Dataset, radiograph: Radiograph) -> str:
    """Return two hashes of the patient and the pixels, as they are stored and as they are shown.

    Stored ones are comparable between uncompressed files only, and there they are exact; shown ones outlive a change of
    the compression. The first is ``-`` for a compressed file.
    """
    patient = [
        str(dataset.get(keyword, "")).strip(" ^") for keyword in ("PatientID", "PatientName", "PatientBirthDate")
    ]
    shown = hash_content(repr((*patient, hash_pixels(radiograph.pixels))).encode())
    syntax = dataset.file_meta.get("TransferSyntaxUID") if hasattr(dataset, "file_meta") else None
    if syntax not in _COMPARABLE or "PixelData" not in dataset:
        return f"- {shown}"
    layout = [str(dataset.get(keyword, "")) for keyword in ("Rows", "Columns", "BitsAllocated", "PixelRepresentation")]
    return f"{hash_content(repr((*patient, *layout, hash_content(dataset.PixelData))).encode())} {shown}"


def identify_content(content: bytes) -> str:
    """Return what :func:`identify` says of a file; empty where it is no radiograph."""
    try:
        dataset = parse_dataset(content, "the radiograph")
        return identify(dataset, read_radiograph(dataset))
    # Libraries raise whatever a damaged file makes happen; it is then no radiograph to compare with.
    except Exception:
        return ""


def are_one_radiograph(identity: str, other: str) -> bool:
    """Return whether two identities are those of one radiograph."""
    (stored, shown), (other_stored, other_shown) = identity.split(), other.split()
    return shown == other_shown if "-" in (stored, other_stored) else stored == other_stored
