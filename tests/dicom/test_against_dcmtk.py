"""Our display next to dcmtk's dcm2pnm: an implementation of the same standard by other people."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.data import get_testdata_file
from pydicom.dataset import FileMetaDataset
from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian, generate_uid

from cxr_mmdet.dicom.radiograph import read_radiograph

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(shutil.which("dcm2pnm") is None, reason="needs the Debian package dcmtk")


def dcm2pnm(path: Path, *options: str) -> np.ndarray:
    target = path.with_suffix(".pgm")
    subprocess.run(["dcm2pnm", "--no-overlays", "+op", *options, str(path), str(target)], check=True)
    return cv2.imread(str(target), cv2.IMREAD_GRAYSCALE)


def write(path: Path, pixels: np.ndarray, **attributes: Any) -> Path:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = DigitalXRayImageStorageForPresentation
    dataset.SOPInstanceUID = generate_uid(entropy_srcs=["dcmtk"])
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated = pixels.dtype.itemsize * 8
    dataset.BitsStored = dataset.BitsAllocated
    dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
    dataset.PixelData = pixels.tobytes()
    dataset["PixelData"].VR = "OW"
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    dataset.HighBit = dataset.BitsStored - 1
    dataset.save_as(path, enforce_file_format=True)
    return path


SIGNED = (np.arange(4096) - 2048).astype(np.int16).reshape(64, 64)
UNSIGNED = np.arange(4096, dtype=np.uint16).reshape(64, 64)
CASES: dict[str, tuple[np.ndarray, dict[str, Any]]] = {
    "linear": (UNSIGNED, {"BitsStored": 12}),
    "8 bit": ((UNSIGNED % 256).astype(np.uint8), {"WindowCenter": 100, "WindowWidth": 120}),
    "16 bit": (UNSIGNED * 16, {"WindowCenter": 30000, "WindowWidth": 40001}),
    "signed": (SIGNED, {"BitsStored": 12, "WindowCenter": -300, "WindowWidth": 900}),
    "sigmoid": (UNSIGNED, {"BitsStored": 12, "VOILUTFunction": "SIGMOID"}),
    "rescaled": (UNSIGNED, {"BitsStored": 12, "RescaleSlope": "2.5", "RescaleIntercept": "-900"}),
    "falling": (UNSIGNED, {"BitsStored": 12, "RescaleSlope": "-1", "RescaleIntercept": "4095"}),
    "threshold": (UNSIGNED, {"BitsStored": 12, "WindowCenter": 2000, "WindowWidth": 1}),
    "two windows": (UNSIGNED, {"BitsStored": 12, "WindowCenter": [500, 3000], "WindowWidth": [700, 100]}),
}


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("case", CASES)
def test_windows_within_one_grey_level(tmp_path: Path, case: str, photometric: str) -> None:
    pixels, attributes = CASES[case]
    attributes = {"WindowCenter": 2000, "WindowWidth": 1500} | attributes
    path = write(tmp_path / "x.dcm", pixels, PhotometricInterpretation=photometric, **attributes)
    ours = read_radiograph(path)
    assert ours.windowing.startswith("window 1")
    assert np.abs(dcm2pnm(path, "+Wi", "1").astype(int) - ours.pixels).max() <= 1


def test_the_inverse_presentation_shape(tmp_path: Path) -> None:
    window = {"BitsStored": 12, "WindowCenter": 2000, "WindowWidth": 1500}
    for photometric in ("MONOCHROME1", "MONOCHROME2"):
        inverse = {"PhotometricInterpretation": photometric, "PresentationLUTShape": "INVERSE"}
        path = write(tmp_path / "x.dcm", UNSIGNED, **window, **inverse)
        assert np.abs(dcm2pnm(path, "+Wi", "1").astype(int) - read_radiograph(path).pixels).max() <= 1


SHIPPED = [
    "693_UNCR.dcm",
    "MR-SIEMENS-DICOM-WithOverlays.dcm",
    "MR2_UNCR.dcm",
    "MR_small.dcm",
    "MR_small_bigendian.dcm",
    "RG1_UNCI.dcm",
    "RG3_UNCR.dcm",
]


@pytest.mark.parametrize("file_name", SHIPPED)
def test_pydicoms_files_within_one_grey_level(tmp_path: Path, file_name: str) -> None:
    source = get_testdata_file(file_name, download=False)
    if source is None:
        pytest.skip("needs the package pydicom-data")
    path = tmp_path / "x.dcm"
    dcmread(source).save_as(path)
    ours = read_radiograph(path)
    assert ours.windowing.startswith("window 1")
    assert np.abs(dcm2pnm(path, "+Wi", "1").astype(int) - ours.pixels).max() <= 1
