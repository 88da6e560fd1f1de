"""An image of the findings as a DICOM Secondary Capture, for viewers that show no structured reports."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

import cv2
import numpy as np
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate, get_frame
from pydicom.uid import ExplicitVRLittleEndian, JPEGBaseline8Bit, SecondaryCaptureImageStorage

from cxr_mmdet.dicom.attributes import strings
from cxr_mmdet.dicom.derived import LAYOUT, Origin, derived_uid, fingerprint
from cxr_mmdet.drawing import add_footer

if TYPE_CHECKING:
    import datetime

    from numpy.typing import NDArray

    from cxr_mmdet.structures.detections import Findings


DESCRIPTION = "cxr_mmdet overlay (research use only)"
SERIES_NUMBER = 9302
NOTICE = "AI result \N{EN DASH} research use only"
"""Text in the pixels, before the model and the date."""


def build_secondary_capture(
    image: NDArray[np.uint8],
    findings: Findings,
    source: Dataset,
    created: datetime.datetime,
    jpeg_quality: int | None,
) -> Dataset:
    """Return the capture; see :func:`cxr_mmdet.dicom.report.secondary_capture`."""
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"a Secondary Capture takes (H, W, 3) uint8 RGB, got {image.shape} {image.dtype}")
    origin = Origin.of(source, findings)
    # Two drawings of the same findings, by other thresholds, sizes or qualities, are two instances.
    form = "x".join(str(side) for side in image.shape)
    if jpeg_quality is not None:
        form += f" JPEG {jpeg_quality}"
    digest = f"{zlib.crc32(np.ascontiguousarray(image).data):08x}"  # of few drawings; nobody gains by equal ones
    uid = derived_uid("SC", LAYOUT, origin.sop_instance_uid, fingerprint(findings), form, digest)
    image = add_footer(image, [NOTICE, _short(findings.model_id), created.strftime("%Y-%m-%d")])
    capture = Dataset()
    capture.file_meta = FileMetaDataset()
    capture.file_meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    capture.file_meta.MediaStorageSOPInstanceUID = uid
    origin.fill(capture, created=created, description=DESCRIPTION)
    capture.SOPClassUID = SecondaryCaptureImageStorage
    capture.SOPInstanceUID = uid
    capture.SeriesInstanceUID = derived_uid("SC series", origin.study_instance_uid, findings.model_id)
    capture.SeriesNumber = SERIES_NUMBER
    capture.Modality = "OT"
    capture.ConversionType = "WSD"
    capture.ImageType = ["DERIVED", "SECONDARY"]
    capture.DateOfSecondaryCapture, capture.TimeOfSecondaryCapture = capture.ContentDate, capture.ContentTime
    capture.DerivationDescription = f"Findings of {findings.model_id}, drawn by {capture.Manufacturer}"[:1024]
    capture.SourceImageSequence = [origin.reference()]
    orientation = strings(source, "PatientOrientation")
    capture.PatientOrientation = orientation if len(orientation) == 2 else None
    capture.Laterality = None  # of type 2C: empty where it is not known
    capture.BurnedInAnnotation = "YES"
    if jpeg_quality is None:
        _add_pixels(capture, image)
    else:
        _add_jpeg(capture, image, jpeg_quality)
    return capture


def _short(model_id: str) -> str:
    """Return a name of 64 characters (VR LO) at most, without its middle: the end tells weights apart."""
    return model_id if len(model_id) <= 64 else f"{model_id[:30]}...{model_id[-32:]}"


def uncompress_capture(capture: Dataset) -> None:
    """Decode a capture for a destination that accepts no JPEG; its attributes still state the lossy compression."""
    if capture.file_meta.TransferSyntaxUID == JPEGBaseline8Bit:
        frame = np.frombuffer(get_frame(capture.PixelData, 0, number_of_frames=1), np.uint8)
        image = cv2.cvtColor(cv2.imdecode(frame, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
        _add_pixels(capture, image)


def _add_pixels(capture: Dataset, image: NDArray[np.uint8]) -> None:
    _describe_pixels(capture, image.shape)
    capture.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    capture.PhotometricInterpretation = "RGB"
    capture.PixelData = image.tobytes() + b"\0" * (image.size % 2)
    capture["PixelData"].VR = "OB"
    capture["PixelData"].is_undefined_length = False


def _add_jpeg(capture: Dataset, image: NDArray[np.uint8], quality: int) -> None:
    # Half the columns for colours: the only form of colour that JPEG Baseline has in DICOM (PS3.5 8.2.1).
    options = [
        cv2.IMWRITE_JPEG_QUALITY,
        quality,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR_422,
    ]
    _, encoded = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)
    _describe_pixels(capture, image.shape)
    capture.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    capture.PhotometricInterpretation = "YBR_FULL_422"
    capture.LossyImageCompression = "01"
    capture.LossyImageCompressionRatio = f"{image.nbytes / encoded.nbytes:.1f}"
    capture.LossyImageCompressionMethod = "ISO_10918_1"
    capture.PixelData = encapsulate([encoded.tobytes()])
    capture["PixelData"].VR = "OB"
    capture["PixelData"].is_undefined_length = True


def _describe_pixels(capture: Dataset, shape: tuple[int, ...]) -> None:
    capture.SamplesPerPixel = 3
    capture.PlanarConfiguration = 0
    capture.Rows, capture.Columns = shape[:2]
    capture.BitsAllocated = capture.BitsStored = 8
    capture.HighBit = 7
    capture.PixelRepresentation = 0
