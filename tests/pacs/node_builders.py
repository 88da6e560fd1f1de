"""What the tests of the DICOM node share: phantoms as files, a tiny model, a node in this process, dcmtk's senders."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from detectors import bundle_of
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import UID, ComputedRadiographyImageStorage, ExplicitVRLittleEndian

from cxr_mmdet.dicom.report import to_bytes
from cxr_mmdet.inference.predictor import Predictor
from cxr_mmdet.pacs.job_store import JobStore
from cxr_mmdet.pacs.node import DicomNode, NodeOptions
from cxr_mmdet.pacs.reporting import ReportOptions
from cxr_mmdet.pacs.sender import DimseDestination
from cxr_mmdet.phantom.cases import plan_case
from cxr_mmdet.phantom.dicom_file import Encoding, write_dicom
from cxr_mmdet.phantom.render import render_phantom
from cxr_mmdet.structures.detections import Detections, Findings
from cxr_mmdet.structures.labels import LABELS_14

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

ARCHIVE = "ARCHIVE"
"""Name of a destination."""
THRESHOLD = 0.85
"""The tiny model has about five things to say above it."""


def write_phantoms(folder: Path, count: int, *, size: int = 96, first: int = 0, **encoding: Any) -> list[Path]:
    """Write small phantoms, uncompressed unless told otherwise: storescu proposes one syntax for all it sends."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for index in range(first, first + count):
        case = plan_case(11, index, abnormal_share=0.5, labels=LABELS_14)
        path = folder / f"{index:03}.dcm"
        write_dicom(path, render_phantom(case, size=size), Encoding(**encoding))
        paths.append(path)
    return paths


def predictor() -> Predictor:
    return Predictor.load(bundle_of("retina", "onnx"), threads=1)


@contextmanager
def run_node(
    state: Path,
    *destinations: str,
    reports: ReportOptions | None = None,
    model: Predictor | None = None,
    **options: Any,
) -> Iterator[DicomNode]:
    """Yield a node that listens at a free port, and stop it afterwards."""
    node = DicomNode(
        state,
        model or predictor(),
        [DimseDestination.parse(destination) for destination in destinations],
        NodeOptions(**({"ae_title": "CXR", "port": 0} | options)),
        reports or ReportOptions(score_threshold=THRESHOLD),
    )
    node.start()
    try:
        yield node
    finally:
        node.stop()


@dataclass(frozen=True)
class FakeDestination:
    """A destination that does whatever a function does with the files, which is to take them unless told otherwise."""

    send: Callable[[Sequence[Path]], None] = lambda paths: None
    name: str = ARCHIVE


def open_store(folder: Path, *destinations: str) -> JobStore:
    return JobStore(folder, destinations or (ARCHIVE,))


def storescu(port: int, *paths: Path, title: str = "SENDER") -> subprocess.CompletedProcess[str]:
    command = ["storescu", "-aet", title, "-aec", "CXR", "127.0.0.1", str(port), *map(str, paths)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def echoscu(port: int, *options: str, called: str = "CXR", title: str = "SENDER") -> subprocess.CompletedProcess[str]:
    command = ["echoscu", *options, "-aet", title, "-aec", called, "127.0.0.1", str(port)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def make_certificate(folder: Path, name: str, *extensions: str) -> tuple[Path, Path]:
    """Return a self-signed certificate, its own authority, and its key."""
    certificate, key = folder / f"{name}.pem", folder / f"{name}.key"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={name}"]
    command += [part for extension in extensions for part in ("-addext", extension)]
    subprocess.run([*command, "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True)
    return certificate, key


def wait_for(condition: Callable[[], Any], seconds: float = 90) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited {seconds} s in vain"
        time.sleep(0.1)


def missing(*programs: str) -> str:
    """Return why a test must be skipped: the Debian packages of the programs that are not there."""
    packages = dict.fromkeys(("storescu", "echoscu", "dcmsend"), "dcmtk") | {"nginx": "nginx-light", "curl": "curl"}
    path = f"{os.environ.get('PATH', '')}:/usr/sbin"
    names = {packages[program] for program in programs if shutil.which(program, path=path) is None}
    return f"needs the Debian package {' and '.join(sorted(names))}" if names else ""


def _header() -> Dataset:
    header = Dataset()
    header.SOPClassUID, header.Modality = ComputedRadiographyImageStorage, "CR"
    for number, keyword in enumerate(("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"), 1):
        setattr(header, keyword, f"1.2.3.{number}")
    header.Rows = header.Columns = 8
    return header


def radiograph_file(
    uid: str, *, grey: int = 7, patient: str = "P1", syntax: UID = ExplicitVRLittleEndian, **more: str
) -> bytes:
    """Return the content of a DICOM file with a radiograph of 8 by 8 pixels and these further attributes."""
    dataset = _header()
    for keyword, value in ({"SOPInstanceUID": uid, "PatientID": patient} | more).items():
        setattr(dataset, keyword, value)
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PixelRepresentation = 1, "MONOCHROME2", 0
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 8, 8, 7
    dataset.WindowCenter, dataset.WindowWidth = 128, 256
    dataset.PixelData = bytes([grey]) * 64
    dataset["PixelData"].VR = "OB"
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    if syntax.is_compressed:
        dataset.compress(syntax, generate_instance_uid=False)
    dataset.file_meta.TransferSyntaxUID = syntax
    return to_bytes(dataset)


HEADER = _header()
FINDINGS = Findings.of(Detections([[1, 1, 4, 4]], [0], [0.5], LABELS_14), size_hw=(8, 8), model_id="tiny")
