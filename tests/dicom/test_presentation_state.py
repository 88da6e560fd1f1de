"""Findings over the original radiograph: what a presentation state says, and how dcmtk shows it."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.uid import ExplicitVRLittleEndian
from report_builders import BOXES, CREATED, NOTHING, SOME, errors_of, found, radiograph, run_tool, sources

from cxr_mmdet.dicom.radiograph import read_radiograph
from cxr_mmdet.dicom.report import presentation_state, to_bytes
from cxr_mmdet.dicom.viewing import Window, read_viewable
from cxr_mmdet.errors import DicomError

if TYPE_CHECKING:
    from pathlib import Path

GREY = {"PhotometricInterpretation": "MONOCHROME2"}


def state_of(findings: Any = SOME, source: Dataset | None = None, **options: Any) -> Dataset:
    return presentation_state(findings, source or radiograph(**GREY), created=CREATED, **options)


def test_every_box_is_a_closed_line_and_a_name_on_a_layer_of_its_class():
    source = radiograph(**GREY)
    state = state_of(source=source)
    (series,) = state.ReferencedSeriesSequence
    assert series.SeriesInstanceUID == source.SeriesInstanceUID
    assert [item.ReferencedSOPInstanceUID for item in series.ReferencedImageSequence] == [source.SOPInstanceUID]
    layers = {layer.GraphicLayer: layer.GraphicLayerDescription for layer in state.GraphicLayerSequence}
    assert layers == {"CLASS_4": "Cardiomegaly", "CLASS_9": "Nodule/Mass", "CLASS_14": "Pulmonary fibrosis"}
    expected = np.array(BOXES).astype(np.float32)
    annotations = state.GraphicAnnotationSequence
    assert [each.GraphicLayer for each in annotations] == ["CLASS_4", "CLASS_9", "CLASS_9", "CLASS_14"]
    for annotation, (left, top, right, bottom) in zip(annotations, expected.tolist(), strict=True):
        (line,), (text,) = annotation.GraphicObjectSequence, annotation.TextObjectSequence
        assert (line.GraphicType, line.GraphicAnnotationUnits, line.GraphicFilled) == ("POLYLINE", "PIXEL", "N")
        corners = [left, top, right, top, right, bottom, left, bottom, left, top]
        assert np.array_equal(np.float32(line.GraphicData), np.float32(corners))
        inside = [*text.BoundingBoxTopLeftHandCorner, *text.BoundingBoxBottomRightHandCorner]
        assert 0 <= inside[0] < inside[2] <= 200
        assert 0 <= inside[1] < inside[3] <= 300
    assert annotations[0].TextObjectSequence[0].UnformattedTextValue == "Cardiomegaly 0.33"


def test_without_findings_there_are_no_layers():
    state = state_of(NOTHING)
    assert "GraphicAnnotationSequence" not in state
    assert "GraphicLayerSequence" not in state


def test_the_same_result_is_the_same_bytes_and_another_window_another_object():
    first, again = (to_bytes(state_of()) for _ in range(2))
    assert first == again
    others = [state_of(window=Window(10, 20)), state_of(invert=True), state_of(found(BOXES, [3, 8, 8, 1])), state_of()]
    assert len({other.SOPInstanceUID for other in others}) == 4
    assert len({other.SeriesInstanceUID for other in others}) == 1


def test_patient_and_study_are_the_radiographs():
    source = radiograph(**GREY, PatientName="Müller^Ä", PatientID="7", StudyDescription="Thorax", InstanceNumber="3")
    source.SpecificCharacterSet = "ISO_IR 100"
    state = state_of(source=source)
    assert (state.PatientName, state.PatientID, state.StudyDescription) == ("Müller^Ä", "7", "Thorax")
    assert (state.StudyInstanceUID, state.InstanceNumber) == (source.StudyInstanceUID, 3)
    assert state.Modality == "PR"


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        ({"PhotometricInterpretation": "RGB"}, "in colour"),
        ({}, "in colour"),
        (GREY | {"Rows": 10}, "10 rows"),
        (GREY | {"SOPInstanceUID": ""}, "no SOPInstanceUID"),
    ],
)
def test_what_cannot_be_shown_with_a_state_is_refused(attributes: dict[str, Any], reason: str):
    with pytest.raises(DicomError, match=reason):
        state_of(source=radiograph(**attributes))


@pytest.mark.parametrize(("stated", "written"), [("SIGMOID", "SIGMOID"), ("LINEAR", None), ("NONSENSE", None)])
@pytest.mark.parametrize("window", [None, Window(5, 6)])
def test_windows_keep_the_function_that_the_page_renders_them_by(stated: str, written: str | None, window: Window):
    source = radiograph(**GREY, WindowCenter=900, WindowWidth=800, VOILUTFunction=stated)
    (item,) = state_of(source=source, window=window).SoftcopyVOILUTSequence
    assert item.WindowCenter == (900 if window is None else 5)
    assert item.get("VOILUTFunction") == written


def test_pixels_keep_their_shape():
    (area,) = state_of(source=radiograph(**GREY, ImagerPixelSpacing=[0.3, 0.2])).DisplayedAreaSelectionSequence
    assert list(area.PresentationPixelAspectRatio) == [3, 2]


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="needs the Debian package dicom3tools")
@pytest.mark.skipif(shutil.which("dcmpschk") is None, reason="needs the Debian package dcmtk")
def test_dciodvfy_and_dcmpschk_find_no_error(tmp_path: Path):
    for number, source in enumerate(sources(tmp_path)):
        source.PhotometricInterpretation = source.get("PhotometricInterpretation", "MONOCHROME2")
        source.PatientName = source.get("PatientName") or "A^B"  # which dcmpschk misses
        size = (int(source.Rows), int(source.Columns))
        boxes = [[0, 0, size[1], size[0]]] * 14
        for findings in (found([], size_hw=size, p_abnormal=0.0), found(boxes, size_hw=size)):
            path = tmp_path / f"made-{number}.dcm"
            path.write_bytes(to_bytes(state_of(findings, source)))
            assert errors_of(path) == []
            assert "error" not in run_tool("dcmpschk", str(path)).lower()


ENCODINGS = {
    "window": {"WindowCenter": 900, "WindowWidth": 800},
    "two windows": {"WindowCenter": [900, 500], "WindowWidth": [800, 300]},
    "rescaled": {"RescaleSlope": 2, "RescaleIntercept": -1024, "WindowCenter": 900, "WindowWidth": 1500},
    "inverted": {"PhotometricInterpretation": "MONOCHROME1", "WindowCenter": 900, "WindowWidth": 800},
    "inverted by its shape": {"PresentationLUTShape": "INVERSE", "WindowCenter": 900, "WindowWidth": 800},
    "VOI LUT": {"VOILUTSequence": [(1024, 300, 12)]},
    "modality LUT": {"ModalityLUTSequence": [(1024, 100, 12)], "WindowCenter": 900, "WindowWidth": 800},
}


def _table(count: int, first: int, bits: int) -> Dataset:
    table = Dataset()
    entries = (np.linspace(0, 1, count) ** 2 * (2**bits - 1)).astype("<u2")
    table.add_new("LUTDescriptor", "US", [count, first, bits])
    table.add_new("LUTData", "OW", entries.tobytes())
    table.ModalityLUTType = "US"
    return table


def _file(path: Path, attributes: dict[str, Any]) -> Dataset:
    """Write an image of all values from 0 to 1999, once each."""
    source = radiograph(**GREY, PatientName="A^B", PatientID="1")  # dcmtk wants them
    source.Rows, source.Columns = 40, 50
    source.BitsAllocated, source.BitsStored, source.HighBit, source.PixelRepresentation = 16, 12, 11, 0
    source.SamplesPerPixel = 1
    for keyword, value in attributes.items():
        is_tables = keyword.endswith("LUTSequence")
        setattr(source, keyword, [_table(*entry) for entry in value] if is_tables else value)
    source.PixelData = np.arange(2000, dtype="<u2").tobytes()
    source.file_meta.MediaStorageSOPClassUID = source.SOPClassUID
    source.file_meta.MediaStorageSOPInstanceUID = source.SOPInstanceUID
    source.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    source.save_as(path, enforce_file_format=True)
    return dcmread(path)


def _as_dcmtk_shows(path: Path, state: Dataset) -> np.ndarray:
    file, image = path.with_suffix(".pr"), path.with_suffix(".pgm")
    file.write_bytes(to_bytes(state))
    subprocess.run(["dcmp2pgm", "-p", str(file), str(path), str(image)], check=True, capture_output=True)
    return cv2.imread(str(image), cv2.IMREAD_UNCHANGED)


@pytest.mark.skipif(shutil.which("dcmp2pgm") is None, reason="needs the Debian package dcmtk")
@pytest.mark.parametrize("name", ENCODINGS)
def test_dcmtk_shows_the_radiograph_as_the_model_saw_it(tmp_path: Path, name: str):
    path = tmp_path / "a.dcm"
    source = _file(path, ENCODINGS[name])
    findings = found([[5, 5, 30, 30]], size_hw=(40, 50))
    expected = read_radiograph(path).pixels
    assert len(np.unique(expected)) > 100, "or the test says nothing"
    shown = _as_dcmtk_shows(path, state_of(findings, source))
    assert np.abs(shown.astype(int) - expected).max() <= 1


@pytest.mark.skipif(shutil.which("dcmp2pgm") is None, reason="needs the Debian package dcmtk")
def test_dcmtk_shows_the_visitors_window(tmp_path: Path):
    path = tmp_path / "a.dcm"
    source = _file(path, ENCODINGS["inverted"])
    findings, window = found([], size_hw=(40, 50)), Window(600, 400)
    _, viewable = read_viewable(path.read_bytes(), "a")
    for invert in (False, True):
        shown = _as_dcmtk_shows(path, state_of(findings, source, window=window, invert=invert))
        assert np.abs(shown.astype(int) - viewable.render(window, invert=invert)).max() <= 1
