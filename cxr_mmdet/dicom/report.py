"""Findings as DICOM objects: structured report, Secondary Capture and presentation state; reading reports back.

* :func:`read_header`: a radiograph's dataset without decoding its image, from a file or its content;
* :func:`structured_report`: findings + that dataset → Comprehensive SR (TID 1500), one measurement group a finding;
* :func:`secondary_capture`: the image that ``Findings.draw`` drew + that dataset → Secondary Capture;
* :func:`presentation_state`: findings + that dataset → Grayscale Softcopy Presentation State: boxes over the original;
* :func:`read_structured_report`: such a report → boxes, classes and scores again;
* :func:`to_bytes`: any of these as the content of a DICOM file.

Patient and study are the radiograph's. All UIDs follow from the radiograph's SOP Instance UID, the model and what is
reported, so the same result made twice is one object to an archive. A report lies in a series per radiograph and model,
captures and presentation states in one each per study and model. Reports and presentation states need the extra
``pacs``; Secondary Captures do not.
"""

from __future__ import annotations

import datetime
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from pydicom import Dataset

from cxr_mmdet.dicom.images import image_format
from cxr_mmdet.dicom.secondary_capture import build_secondary_capture
from cxr_mmdet.dicom.source import parse_dataset
from cxr_mmdet.errors import DicomError, UsageError
from cxr_mmdet.structures.radiograph_files import is_dicom, read_bytes

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from cxr_mmdet.dicom.viewing import Window
    from cxr_mmdet.structures.detections import Findings

MISSING = "{} need highdicom; install it with: pip install 'cxr-mmdet[pacs]'"


def read_header(source: str | Path | bytes, name: str | None = None) -> Dataset:
    """Return the dataset of a radiograph, for the functions below.

    Args:
        source: a DICOM file or its content.
        name: name used in error messages; the path by default.

    Raises:
        DicomError: it is not DICOM; a PNG has no patient and no study to report on.
    """
    if isinstance(source, bytes):
        content, name = source, name or "the uploaded file"
    else:
        content, name = read_bytes(Path(source)), name or str(source)
    if not is_dicom(content) and image_format(content) is not None:
        raise DicomError(f"{name}: is an image without patient and study; only DICOM files can be reported on.")
    return parse_dataset(content, name)


def structured_report(findings: Findings, source: Dataset, *, created: datetime.datetime | None = None) -> Dataset:
    """Return the findings as a Comprehensive SR by TID 1500, preliminary and unverified.

    Boxes stand in it as closed polylines in pixels of the radiograph, x to the right and y down, with 0, 0 at the outer
    corner of the first pixel and columns, rows at that of the last one (PS3.3 C.18.6), which is how our boxes count:
    no half pixel is added or taken. DICOM holds coordinates in single precision; that rounding, below a thousandth of
    a pixel, is all that a box goes through.

    Args:
        findings: boxes in pixels of the radiograph.
        source: the radiograph's dataset; its pixels are not needed.
        created: time of the report; now by default.

    Raises:
        DicomError: the radiograph has no valid UIDs to refer to, the findings are of another image, or DICOM cannot
            hold the name of a class.
        UsageError: highdicom is not installed.
    """
    try:
        from cxr_mmdet.dicom.structured_report import build_structured_report
    except ModuleNotFoundError:
        raise UsageError(MISSING.format("structured reports")) from None
    return build_structured_report(findings, source, created or datetime.datetime.now())


def secondary_capture(
    image: NDArray[np.uint8],
    findings: Findings,
    source: Dataset,
    *,
    created: datetime.datetime | None = None,
    jpeg_quality: int | None = None,
) -> Dataset:
    """Return an image of the findings as a Secondary Capture.

    Args:
        image: (H, W, 3) uint8 RGB, of any size, such as ``Findings.draw`` returns.
        findings: the findings that it shows.
        source: the radiograph's dataset; its pixels are not needed.
        created: time of the capture; now by default.
        jpeg_quality: quality of JPEG Baseline, 1…100, which is lossy and a tenth as large; None: uncompressed.

    Raises:
        DicomError: the radiograph has no valid UIDs to refer to, or the findings are of another image.
    """
    return build_secondary_capture(image, findings, source, created or datetime.datetime.now(), jpeg_quality)


def presentation_state(
    findings: Findings,
    source: Dataset,
    *,
    created: datetime.datetime | None = None,
    window: Window | None = None,
    invert: bool = False,
) -> Dataset:
    """Return a presentation state that shows the findings over the original radiograph.

    A box is a polyline and a text, on a layer of its class, in the coordinates of :func:`structured_report`. The
    values are shown as the radiograph's own file asks for, by the view that the model saw.

    Args:
        findings: boxes in pixels of the radiograph.
        source: the radiograph's dataset; its pixels are not needed.
        created: time of creation; now by default.
        window: instead of the file's own.
        invert: swap black and white.

    Raises:
        DicomError: nothing can refer to the radiograph, it is in colour, the findings are of another image, or a
            class has a name that DICOM cannot hold.
        UsageError: highdicom is not installed.
    """
    try:
        from cxr_mmdet.dicom.presentation_state import build_presentation_state
    except ModuleNotFoundError:
        raise UsageError(MISSING.format("presentation states")) from None
    return build_presentation_state(findings, source, created or datetime.datetime.now(), window=window, invert=invert)


def read_structured_report(source: str | Path | bytes | Dataset, name: str | None = None) -> tuple[Findings, str]:
    """Return the findings that :func:`structured_report` wrote, and the SOP Instance UID of their radiograph.

    The order is the report's, which is the findings' own; ``class_names`` are the classes that occur in it.

    Args:
        source: a DICOM file, its content or its dataset.
        name: name used in error messages; the path by default.

    Raises:
        DicomError: it is something else.
        UsageError: highdicom is not installed.
    """
    try:
        from cxr_mmdet.dicom.report_reader import read_report
    except ModuleNotFoundError:
        raise UsageError(MISSING.format("structured reports")) from None
    if isinstance(source, Dataset):
        return read_report(source, name or "the dataset")
    name = name or ("the uploaded file" if isinstance(source, bytes) else str(source))
    return read_report(read_header(source, name), name)


def to_bytes(dataset: Dataset) -> bytes:
    """Return one of these objects as the content of a DICOM file (PS3.10)."""
    buffer = BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()
