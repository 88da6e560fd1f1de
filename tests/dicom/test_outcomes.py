"""Every DICOM file of pydicom and pydicom-data: shown as pydicom's functions would, or refused in one sentence."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import numpy as np
import pydicom
import pytest
from oracle import by_pydicom
from outcomes import outcome, shipped_files, table
from pydicom import Dataset, dcmread
from pydicom.pixels import apply_color_lut, apply_modality_lut
from pydicom.uid import ImplicitVRLittleEndian

from cxr_mmdet.dicom.radiograph import Radiograph, read_radiograph
from cxr_mmdet.errors import DicomError

FILES = shipped_files()
DOCS = Path(__file__).resolve().parents[2] / "docs/dicom.md"


def test_there_are_as_many_as_the_docs_say() -> None:
    if "RG1_UNCR.dcm" not in FILES or pydicom.__version__ != "3.0.2":
        pytest.skip("the table is of pydicom 3.0.2 with the package pydicom-data")
    outcomes = {name: outcome(path) for name, path in FILES.items()}
    assert len(outcomes) == 260
    assert sum(what.startswith("shown") for what in outcomes.values()) == 144
    expected = table(outcomes)
    assert expected in DOCS.read_text(encoding="utf-8"), "put what tests/dicom/outcomes.py prints into the docs"


@pytest.mark.parametrize("name", FILES)
@pytest.mark.filterwarnings("ignore")
def test_shown_as_pydicom_shows_it_or_refused_in_one_sentence(name: str) -> None:
    path = FILES[name]
    what = outcome(path)
    if not what.startswith("shown"):
        assert what.isprintable()
        assert 10 < len(what) < 200
        with pytest.raises(DicomError, match=re.escape(f"{path}: {what}")):
            read_radiograph(path)
        return
    radiograph = read_radiograph(path)
    assert radiograph.pixels.shape == radiograph.size_hw
    assert np.ptp(radiograph.pixels) > 0
    expected = expected_levels(opened(path), radiograph)
    assert np.abs(radiograph.pixels - expected).max() <= 1


def opened(path: Path) -> Dataset:
    """The file as pydicom needs it: with a transfer syntax."""
    dataset = dcmread(path, force=True)
    if "TransferSyntaxUID" not in dataset.file_meta:
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    return dataset


def expected_levels(dataset: Dataset, radiograph: Radiograph) -> np.ndarray:
    """What pydicom and numpy make of the file, 0 to 255."""
    if radiograph.windowing == "palette":
        if not dataset.original_encoding[1] and "RedPaletteColorLookupTableData" in dataset:
            swap_palette(dataset)
        colours = apply_color_lut(dataset.pixel_array, dataset)[..., :3]
        return luma(colours) / np.iinfo(colours.dtype).max * 255
    if radiograph.windowing == "colour as stored":
        return luma(dataset.pixel_array) / (2**dataset.BitsStored - 1) * 255
    if radiograph.windowing.startswith("percentiles"):
        return by_percentiles(dataset)
    return by_pydicom(dataset)


def swap_palette(dataset: Dataset) -> None:
    """Bring a big-endian palette into the byte order that pydicom takes for granted."""
    for colour in ("Red", "Green", "Blue"):
        element = dataset[f"{colour}PaletteColorLookupTableData"]
        element.value = np.frombuffer(element.value, ">u2").astype("<u2").tobytes()


def luma(rgb: np.ndarray) -> np.ndarray:
    return rgb @ np.array([0.299, 0.587, 0.114])


def by_percentiles(dataset: Dataset) -> np.ndarray:
    stored = dataset.pixel_array
    values = apply_modality_lut(stored, dataset).astype(np.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        padding = dataset.get("PixelPaddingValue")
    measured = values if padding is None else values[stored != padding]
    low, high = np.percentile(measured, [0.5, 99.5], method="inverted_cdf")
    levels = np.clip((values - low) / (high - low), 0, 1) * 255
    return 255 - levels if dataset.get("PhotometricInterpretation") == "MONOCHROME1" else levels
