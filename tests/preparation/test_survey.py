"""What a folder holds: every count by hand, nothing written, nothing about a patient but a pseudonym."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest
from conftest import write_radiograph
from PIL import Image
from pydicom import dcmread
from pydicom.uid import RLELossless

from cxr_mmdet.errors import DatasetError
from cxr_mmdet.preparation.survey import summarise, survey_folder, survey_lines

if TYPE_CHECKING:
    from pathlib import Path

WIDE = np.arange(1200, dtype=np.uint16).reshape(30, 40) * 50


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Six radiographs, two files that cannot be shown and two that are none, in nested folders."""
    root = tmp_path / "archive"
    one = write_radiograph(root / "a" / "one.dcm", PatientID="SECRET-1")
    dataset = dcmread(one)
    dataset.compress(RLELossless, encoding_plugin="pydicom")
    dataset.save_as(root / "a" / "one_rle.dcm")
    write_radiograph(root / "b" / "1.2.840.7", WIDE, PhotometricInterpretation="MONOCHROME1", PatientID="SECRET-2")
    write_radiograph(root / "b" / "IM1", WIDE + 1, PatientID="", ViewPosition="", WindowCenter=None, WindowWidth=None)
    write_radiograph(root / "b" / "2.dcm", WIDE.T.copy(), PatientID="SECRET-1", BurnedInAnnotation="YES", Modality="DX")
    cv2.imwrite(str(root / "c.png"), (WIDE // 256).astype(np.uint8))
    (root / "a" / "broken.dcm").write_bytes(one.read_bytes()[:-100])
    (root / "b" / "text.dcm").write_text("nothing like it")
    (root / "notes.txt").write_text("x")
    (root / ".hidden").mkdir()
    write_radiograph(root / ".hidden" / "x.dcm")
    (root / "README").write_text("y" * 200)
    return root


def test_every_count(archive: Path) -> None:
    before = sorted((path, path.stat().st_mtime_ns) for path in archive.rglob("*"))
    survey = survey_folder(archive)
    assert (survey.readable, survey.other_files, survey.table) == (6, 2, None)
    assert survey.counts["syntax"] == {"Explicit VR Little Endian": 4, "RLE Lossless": 1, "none, PNG": 1}
    assert survey.counts["photometric"] == {"MONOCHROME2": 4, "MONOCHROME1": 1, "grey": 1}
    assert survey.counts["bits"] == {"16 of 16": 3, "8 of 8": 2, "not stated": 1}
    assert survey.counts["size"] == {"40 x 30": 3, "40 x 60": 2, "30 x 40": 1}
    assert survey.counts["window"] == {
        "window 1 of 1 (LINEAR)": 4,
        "as stored": 1,
        "percentiles 0.5-99.5: no window": 1,
    }
    assert survey.counts["modality"] == {"CR": 4, "DX": 1, "not stated": 1}
    assert survey.counts["view"] == {"PA": 4, "not stated": 2}
    assert survey.counts["burned_in_annotation"] == {"not stated": 5, "YES": 1}
    assert list(survey.unreadable) == ["a/broken.dcm", "b/text.dcm"]
    assert survey.unreadable["b/text.dcm"] == "not a DICOM file nor a PNG, JPEG or TIFF image"
    assert "less than expected" in survey.unreadable["a/broken.dcm"]
    assert survey.identical == (("a/one.dcm", "a/one_rle.dcm"),)
    assert survey.burned_in == ("b/2.dcm",)
    assert (survey.patients, survey.without_patient) == (2, 2)
    assert survey.several == {"patient-of-a/one.dcm": ("a/one.dcm", "a/one_rle.dcm", "b/2.dcm")}
    assert not survey.is_ready
    assert sorted((path, path.stat().st_mtime_ns) for path in archive.rglob("*")) == before


def test_images_that_are_turned_by_their_exif_orientation_are_reported(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.tile(np.arange(40, dtype=np.uint8), (30, 1))).save(tmp_path / "a.jpg", exif=exif)
    survey = survey_folder(tmp_path)
    assert survey.warnings == {"turned upright by EXIF orientation 6": 1}
    assert survey.counts["size"] == {"30 x 40": 1}


def test_workers_find_the_same_and_no_patient_is_named(archive: Path) -> None:
    counts: list[tuple[int, int]] = []
    survey = survey_folder(archive, jobs=2, progress=lambda *count: counts.append(count))
    assert survey == survey_folder(archive)
    assert counts == [(0, 8)] + [(1, 8)] * 8
    assert "SECRET" not in json.dumps(dataclasses.asdict(survey))


def test_what_stands_out_is_said(archive: Path) -> None:
    lines = list(survey_lines(survey_folder(archive)))
    assert lines[:4] == [
        "6 radiographs, 2 unreadable, 2 other files",
        "2 patients, 1 with several images (at most 3); 2 radiographs state no Patient ID",
        "1 image identical to another: a/one.dcm = a/one_rle.dcm",
        "1 say that text is burnt into the pixels: b/2.dcm",
    ]
    assert "unreadable, 1: not a DICOM file nor a PNG, JPEG or TIFF image: b/text.dcm" in lines
    assert lines[-1] == "no annotations of a known format beside the radiographs"


def test_a_folder_without_radiographs_is_an_error_and_nothing_adds_up_to_nothing(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(DatasetError, match="holds no radiograph, nor do its folders; got 1 other files"):
        survey_folder(tmp_path)
    empty = summarise([])
    assert (empty.readable, empty.counts["syntax"], empty.is_ready) == (0, {}, True)
