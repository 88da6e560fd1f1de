"""A phantom as a DICOM file, in one of the many shapes real ones come in."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    ComputedRadiographyImageStorage,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    RLELossless,
    generate_uid,
)

from cxr_mmdet.files import atomic_path
from cxr_mmdet.phantom.patient import Stream, generator

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray
    from pydicom.uid import UID

    from cxr_mmdet.phantom.cases import PhantomCase
    from cxr_mmdet.phantom.render import Phantom

WINDOWS = ("linear", "none", "several", "sigmoid")


@dataclass(frozen=True)
class Encoding:
    """Encoding of the pixels.

    Attributes:
        bits_stored: 8…16.
        photometric: MONOCHROME1 (small is white) or MONOCHROME2.
        syntax: transfer syntax.
        window: one of WINDOWS.
        used: lowest and highest stored value the image takes, shares of the full range.
        slope: rescale slope; 1 with intercept 0 writes no modality transform for CR.
        intercept: rescale intercept.
    """

    bits_stored: int = 12
    photometric: str = "MONOCHROME2"
    syntax: UID = ExplicitVRLittleEndian
    window: str = "linear"
    used: tuple[float, float] = (0.0, 1.0)
    slope: float = 1.0
    intercept: float = 0.0


def image_id(seed: int, index: int) -> str:
    """Return the image's name: 32 hexadecimal digits, as VinBigData's."""
    return hashlib.blake2b(f"phantom image {seed} {index}".encode(), digest_size=16).hexdigest()


def patient_id(case: PhantomCase) -> str:
    """Return the patient's identity, equal for the images of one patient."""
    return "PH" + hashlib.blake2b(f"patient {case.seed} {case.patient.number}".encode(), digest_size=6).hexdigest()


def draw_encoding(case: PhantomCase) -> Encoding:
    """Return how this image's file is written."""
    rng = generator(case.seed, Stream.FILE, case.index)
    bits = int(rng.choice([8, 10, 12, 14, 15, 16], p=[0.15, 0.1, 0.35, 0.2, 0.1, 0.1]))
    syntaxes = (ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless, JPEG2000Lossless)
    window = WINDOWS[int(rng.choice(4, p=[0.5, 0.2, 0.15, 0.15]))]
    # A sigmoid spreads its ends thinly; eight or ten bits would show as bands.
    if window == "sigmoid" and bits < 12:
        window = "linear"
    rescaled = rng.random() < 0.2 and window != "none"
    return Encoding(
        bits_stored=bits,
        photometric="MONOCHROME1" if rng.random() < 0.3 else "MONOCHROME2",
        syntax=syntaxes[int(rng.choice(4, p=[0.47, 0.17, 0.08, 0.28]))],
        window=window,
        used=(0.0, 1.0) if window in ("none", "sigmoid") else (float(rng.uniform(0, 0.1)), float(rng.uniform(0.85, 1))),
        slope=float(rng.choice([0.5, 2.0])) if rescaled else 1.0,
        intercept=float(rng.choice([-1024.0, 100.0])) if rescaled else 0.0,
    )


def write_dicom(path: Path, phantom: Phantom, encoding: Encoding) -> None:
    """Write the phantom as one DICOM file.

    Args:
        path: the file.
        phantom: the image as a viewer shows it, and its patient.
        encoding: how; decoded by the standard's pipeline every encoding gives the same image.
    """
    dataset = _identity(phantom, encoding)
    _add_pixels(dataset, phantom.image, encoding)
    if encoding.syntax.is_compressed:
        # The encoder is named so that the bytes do not depend on which other codecs happen to be installed.
        plugin = "pydicom" if encoding.syntax == RLELossless else "pylibjpeg"
        dataset.compress(encoding.syntax, encoding_plugin=plugin, generate_instance_uid=False)
    # In memory first: what a full disk raises would come out of pydicom's writer without its number.
    content = BytesIO()
    dataset.save_as(content, enforce_file_format=True)
    with atomic_path(path) as temporary:
        temporary.write_bytes(content.getvalue())


def _identity(phantom: Phantom, encoding: Encoding) -> Dataset:
    case = phantom.case
    # Digital X-ray demands a window and allows no rescale but the identity (PS3.3 C.8.11.3); computed radiography may.
    plain = (encoding.slope, encoding.intercept) == (1.0, 0.0) and encoding.window != "none"
    digital = plain and case.index % 4 != 3
    uid = {
        name: generate_uid(entropy_srcs=[name, str(case.seed), str(case.patient.number), str(case.index)])
        for name in ("study", "series", "instance")
    }
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian if encoding.syntax.is_compressed else encoding.syntax
    dataset.SOPClassUID = DigitalXRayImageStorageForPresentation if digital else ComputedRadiographyImageStorage
    dataset.SOPInstanceUID = uid["instance"]
    dataset.StudyInstanceUID = uid["study"]
    dataset.SeriesInstanceUID = uid["series"]
    dataset.Modality = "DX" if digital else "CR"
    dataset.SpecificCharacterSet = "ISO_IR 100"
    dataset.PatientID = patient_id(case)
    dataset.PatientName = f"Phantom^{case.patient.number}"
    dataset.PatientSex = "F" if case.patient.female else "M"
    dataset.PatientAge = f"{case.patient.age:03d}Y"
    for empty in ("PatientBirthDate", "StudyDate", "StudyTime", "AccessionNumber", "ReferringPhysicianName"):
        setattr(dataset, empty, None)
    dataset.StudyID = "1"
    dataset.SeriesNumber = 1
    dataset.InstanceNumber = 1
    dataset.Manufacturer = "cxr_mmdet phantom"
    dataset.BodyPartExamined = "CHEST"
    dataset.ViewPosition = case.view.projection
    dataset.PatientOrientation = ["L", "F"]
    dataset.ImageType = ["ORIGINAL", "PRIMARY", ""] if digital else ["ORIGINAL", "PRIMARY"]
    spacing = f"{phantom.spacing:.5f}"
    dataset.ImagerPixelSpacing = [spacing, spacing]
    if not digital or case.index % 2:
        dataset.PixelSpacing = [spacing, spacing]
    if digital:
        _add_digital_x_ray(dataset, encoding)
    return dataset


def _add_digital_x_ray(dataset: Dataset, encoding: Encoding) -> None:
    inverted = encoding.photometric == "MONOCHROME1"
    dataset.PresentationIntentType = "FOR PRESENTATION"
    dataset.PixelIntensityRelationship = "LOG"
    dataset.PixelIntensityRelationshipSign = 1 if inverted else -1
    dataset.PresentationLUTShape = "INVERSE" if inverted else "IDENTITY"
    dataset.RescaleType = "US"
    dataset.LossyImageCompression = "00"
    dataset.BurnedInAnnotation = "NO"
    dataset.ImageLaterality = "U"
    dataset.DetectorType = None
    dataset.PositionerType = None
    dataset.AcquisitionContextSequence = []
    region = Dataset()
    region.CodeValue, region.CodingSchemeDesignator, region.CodeMeaning = "51185008", "SCT", "Chest"
    dataset.AnatomicRegionSequence = [region]


def _add_pixels(dataset: Dataset, image: NDArray[np.float32], encoding: Encoding) -> None:
    shown = np.clip(image, 0, 1).astype(np.float64)
    if encoding.photometric == "MONOCHROME1":
        shown = 1 - shown
    stored = _stored_values(shown, encoding)
    allocated = 8 if encoding.bits_stored <= 8 else 16
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = encoding.photometric
    dataset.Rows, dataset.Columns = image.shape
    dataset.BitsAllocated = allocated
    dataset.BitsStored = encoding.bits_stored
    dataset.HighBit = encoding.bits_stored - 1
    dataset.PixelRepresentation = 0
    if dataset.Modality == "DX" or (encoding.slope, encoding.intercept) != (1.0, 0.0):
        dataset.RescaleSlope, dataset.RescaleIntercept = encoding.slope, encoding.intercept
        dataset.RescaleType = "US"
    _add_window(dataset, encoding)
    pixels = stored.astype("<u1" if allocated == 8 else "<u2").tobytes()
    dataset.PixelData = pixels + b"\0" * (len(pixels) % 2)
    dataset["PixelData"].VR = "OB" if allocated == 8 else "OW"


def _stored_values(shown: NDArray[np.float64], encoding: Encoding) -> NDArray[np.float64]:
    """Return what must be stored so that rescale and window give ``shown`` again."""
    if encoding.window == "sigmoid":
        center, width = _sigmoid(encoding)
        clipped = np.clip(shown, _SIGMOID_END, 1 - _SIGMOID_END)
        stored = center + width / 4 * np.log(clipped / (1 - clipped))
    else:
        low, high = _used_values(encoding)
        stored = low + shown * (high - low)
    return np.round(stored)


_SIGMOID_END = 0.004
"""Greys nearer to black or white than this are a sigmoid's infinity."""


def _sigmoid(encoding: Encoding) -> tuple[float, float]:
    """Return centre and width, in stored values, of the sigmoid that spans the full range."""
    top = (1 << encoding.bits_stored) - 1
    return top / 2, 2 * top / np.log((1 - _SIGMOID_END) / _SIGMOID_END)


def _used_values(encoding: Encoding) -> tuple[int, int]:
    top = (1 << encoding.bits_stored) - 1
    return round(encoding.used[0] * top), round(encoding.used[1] * top)


def _add_window(dataset: Dataset, encoding: Encoding) -> None:
    """Write the window, which applies after the rescale (PS3.3 C.11.2.1.2)."""
    if encoding.window == "none":
        return
    if encoding.window == "sigmoid":
        center, width = _sigmoid(encoding)
        dataset.VOILUTFunction = "SIGMOID"
        dataset.WindowCenter = _decimal(center * encoding.slope + encoding.intercept)
        dataset.WindowWidth = _decimal(width * encoding.slope)
        return
    low, high = (value * encoding.slope + encoding.intercept for value in _used_values(encoding))
    # LINEAR shows centre - 0.5 ± (width - 1) / 2 as black and white.
    center, width = (low + high + 1) / 2, high - low + 1
    if encoding.window == "linear":
        dataset.WindowCenter, dataset.WindowWidth = _decimal(center), _decimal(width)
    else:
        dataset.WindowCenter = [_decimal(center), _decimal(center)]
        dataset.WindowWidth = [_decimal(width), _decimal(0.75 * width)]
        dataset.WindowCenterWidthExplanation = ["NORMAL", "HARDER"]


def _decimal(value: float) -> str:
    """Return the number as a decimal string, which DICOM limits to 16 characters."""
    return f"{value:.6f}".rstrip("0").rstrip(".")
