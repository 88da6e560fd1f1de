"""Reports that a reader corrected in a viewer come back as readings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ohif_code import in_ohif, needs_ohif
from pydicom import Dataset, dcmread
from report_builders import CREATED, found, phantom_file, radiograph
from typer.testing import CliRunner

from cxr_mmdet.annotations.table import read_table
from cxr_mmdet.cli.feedback import app
from cxr_mmdet.dicom.report import read_header, structured_report, to_bytes
from cxr_mmdet.errors import DatasetError, DicomError
from cxr_mmdet.web.corrected_reports import (
    MarkedReport,
    _add,
    _Correction,
    import_reports,
    read_marks,
    reading_of,
)
from cxr_mmdet.web.store import Store, StoredImage
from cxr_mmdet.web.verdicts import Kind

BOXES = [[10, 20, 60, 70], [5, 5, 15, 15], [30, 10, 50, 40], [62, 60, 90, 90]]
FINDINGS = found(BOXES, [3, 8, 8, 13], [0.75, 0.5, 0.5, 0.4], size_hw=(117, 96))
AGREED = [
    ("Cardiomegaly 0.75", (10.0, 20.0, 60.0, 70.0)),
    ("Nodule/Mass 0.50", (5.0, 5.0, 15.0, 15.0)),
    ("Nodule/Mass 0.50", (30.0, 10.0, 50.0, 40.0)),
    ("Pulmonary fibrosis 0.40", (62.0, 60.0, 90.0, 90.0)),
]


def verdicts(marks: list[tuple[str, tuple[float, ...]]]) -> list[tuple[Kind, str, tuple[float, ...]]]:
    reading = reading_of(FINDINGS, MarkedReport("R", "1.2", tuple(marks)))
    assert reading.finished
    return [(verdict.kind, verdict.class_name, verdict.box_xyxy) for verdict in reading.said]


def test_rectangles_that_nobody_touched_are_agreed():
    shaken = [(text, tuple(np.add(box, 1e-3))) for text, box in AGREED[::-1]]
    assert [kind for kind, *_ in verdicts(shaken)] == [Kind.agree] * 4


def test_each_change_is_its_verdict():
    changed = [
        ("Cardiomegaly 0.75", (0.0, 0.0, 5.0, 8.0)),  # moved far away: its text tells which it is
        AGREED[2],  # the other of one text was deleted
        ("pneumothorax", (62.0, 60.0, 90.0, 90.0)),
        ("ILD", (70.0, 5.0, 90.0, 30.0)),
    ]
    assert verdicts(changed) == [
        (Kind.wrong_box, "Cardiomegaly", (0.0, 0.0, 5.0, 8.0)),
        (Kind.absent, "Nodule/Mass", (5.0, 5.0, 15.0, 15.0)),
        (Kind.agree, "Nodule/Mass", (30.0, 10.0, 50.0, 40.0)),
        (Kind.wrong_class, "Pneumothorax", (62.0, 60.0, 90.0, 90.0)),
        (Kind.missed, "ILD", (70.0, 5.0, 90.0, 30.0)),
    ]


def test_a_rectangle_may_be_renamed_and_moved_and_new_classes_may_appear():
    renamed = ("Rib fracture", (32.0, 12.0, 50.0, 40.0))
    assert verdicts([renamed])[2] == (Kind.wrong_box, *renamed)
    assert [kind for kind, *_ in verdicts([])] == [Kind.absent] * 4


def test_what_is_no_report_of_rectangles_is_named():
    for dataset in (radiograph(), Dataset()):
        with pytest.raises(DicomError, match=r"a\.dcm: is not a structured report with boxes on one radiograph"):
            read_marks(dataset, Path("a.dcm"))


@pytest.fixture
def hospital(tmp_path: Path) -> dict[str, Any]:
    """A folder of radiographs, and the report on one of them as OHIF stored it after a reader's corrections."""
    (tmp_path / "radiographs").mkdir()
    (tmp_path / "reports").mkdir()
    path = phantom_file(tmp_path / "radiographs", 0)
    source, image = read_header(path), dcmread(path)
    report = structured_report(FINDINGS, source, created=CREATED)
    edits = {
        "moved": {0: [12, 22, 58, 70]},
        "deleted": [1],
        "renamed": {3: "Pneumothorax"},
        "added": [{"box": [70, 5, 90, 30], "label": "ILD"}],
    }
    corrected = tmp_path / "reports" / "corrected.dcm"
    correction = {"image": source.SOPInstanceUID, "edits": edits, "reader": "Doe^Jane", "path": str(corrected)}
    (seen,) = in_ohif(tmp_path, [report], [image], correction=correction)
    assert len(seen["hydrated"]) == 4
    (tmp_path / "reports" / "original.dcm").write_bytes(to_bytes(report))
    return {"reports": tmp_path / "reports", "images": tmp_path / "radiographs", "store": tmp_path / "store"}


def run(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(each) for each in arguments])


def test_damaged_files_are_named_and_keep_no_others_out(tmp_path: Path):
    """One cut file among reports or radiographs ended the import of all in a traceback."""
    images, reports = tmp_path / "images", tmp_path / "reports"
    images.mkdir(), reports.mkdir()
    whole = phantom_file(images, 0).read_bytes()
    cuts = (141, 152)  # within the file meta information
    for folder in (images, reports):
        for length in cuts:
            (folder / f"cut{length}.dcm").write_bytes(whole[:length])
    problems = import_reports(tmp_path / "store", [reports], images).problems
    assert not (tmp_path / "store").exists(), "there is nothing to keep"
    assert len(problems) == len(cuts)
    assert all(f"cut{length}.dcm: damaged DICOM file" in each for length, each in zip(cuts, problems, strict=True))


def test_who_returns_to_what_they_said_before_says_it_last(tmp_path: Path):
    """The third of three reports was taken for the first, so that the second counted."""
    image = StoredImage("a" * 64, "b" * 64, (117, 96))

    def corrected(marks: list[tuple[str, tuple[float, ...]]]) -> _Correction:
        return _Correction(image, "R", reading_of(FINDINGS, MarkedReport("R", "1.2", tuple(marks))), FINDINGS)

    def last() -> list[Kind]:
        store = Store.open(tmp_path / "store")
        kinds = [verdict.kind for verdict in store.readings()[-1].verdicts]
        store.close()
        return kinds

    def add(*corrections: _Correction) -> int:
        return _add(Store.open(tmp_path / "store"), corrections)

    first, second = corrected(AGREED), corrected(AGREED[:3])
    assert add(second) == 1
    assert add(first, second, first) == 3
    assert last() == [Kind.agree] * 4
    assert add(first, second, first) == 0
    assert add(first, second, first, second) == 1
    assert last() == [Kind.agree] * 3 + [Kind.absent]


@needs_ohif
def test_a_report_corrected_in_ohif_becomes_a_reading_and_a_row_to_train_on(hospital: dict[str, Any], tmp_path: Path):
    store, reports, images = hospital["store"], hospital["reports"], hospital["images"]
    result = run("import", store, reports, "--images", images)
    assert result.exit_code == 0, result.output
    assert "1 reading added" in result.output
    kept = Store.open(store, must_exist=True)
    (reading,) = kept.readings()
    kept.close()
    assert (reading.reader, reading.finished) == ("Doe Jane", True)
    assert [(each.kind, each.class_name) for each in reading.verdicts] == [
        (Kind.wrong_box, "Cardiomegaly"),
        (Kind.absent, "Nodule/Mass"),
        (Kind.agree, "Nodule/Mass"),
        (Kind.wrong_class, "Pneumothorax"),
        (Kind.missed, "ILD"),
    ]
    assert reading.verdicts[0].box_xyxy == pytest.approx((12, 22, 58, 70))

    assert "1 reading in the store already" in run("import", store, reports, "--images", images).output
    assert run("export", store, tmp_path / "train.csv", "--images", images).exit_code == 0
    rows = read_table(tmp_path / "train.csv")
    assert sorted(rows["class_name"]) == ["Cardiomegaly", "ILD", "Nodule/Mass", "Pneumothorax"]
    assert set(rows["reader"]) == {"Doe Jane"}


@needs_ohif
def test_the_later_of_two_corrections_counts(hospital: dict[str, Any], tmp_path: Path):
    """Whatever their files are called; a correction of a correction names no report of a model."""
    store, reports, images = hospital["store"], hospital["reports"], hospital["images"]
    first = dcmread(reports / "corrected.dcm")
    (item,) = first.PredecessorDocumentsSequence[0].ReferencedSeriesSequence[0].ReferencedSOPSequence
    item.ReferencedSOPInstanceUID = "1.2.3"
    first.ContentTime = "235959"
    measurements = first.ContentSequence[-1]
    measurements.ContentSequence = measurements.ContentSequence[:1]
    first.save_as(reports / "a.dcm")
    assert run("import", store, reports, "--images", images).exit_code == 0
    assert run("export", store, tmp_path / "train.csv", "--images", images).exit_code == 0
    assert list(read_table(tmp_path / "train.csv")["class_name"]) == ["Cardiomegaly"]


@needs_ohif
def test_what_is_missing_is_named(hospital: dict[str, Any], tmp_path: Path):
    store, reports, images = hospital["store"], hospital["reports"], hospital["images"]
    (problem,) = import_reports(store, [reports / "corrected.dcm"], images).problems
    assert "corrected.dcm: none of the reports given is the one that it corrects" in problem
    with pytest.raises(DatasetError, match="no report that a viewer stored"):
        import_reports(store, [reports / "original.dcm"], images)
    damaged = dcmread(reports / "corrected.dcm")
    group = damaged.ContentSequence[-1].ContentSequence[0]
    (area,) = (item for item in group.ContentSequence if item.ValueType == "NUM")
    del area.ContentSequence[0].GraphicData
    damaged.save_as(tmp_path / "damaged.dcm")
    (problem,) = import_reports(store, [tmp_path / "damaged.dcm"], images).problems
    assert "damaged.dcm: cannot be read as a structured report" in problem
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    phantom_file(elsewhere, 1)
    (problem,) = import_reports(store, [reports], elsewhere).problems
    assert "elsewhere holds no radiograph" in problem
    corrected = dcmread(reports / "corrected.dcm")
    (observer,) = (item for item in corrected.ContentSequence if item.ValueType == "PNAME")
    observer.PersonName = "unknown^unknown"  # as OHIF writes it
    corrected.save_as(reports / "corrected.dcm")
    (problem,) = import_reports(store, [reports], images).problems
    assert "names no reader; pass --reader NAME" in problem
    assert import_reports(store, [reports], images, "R7").readings == 1
