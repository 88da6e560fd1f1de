"""The loop closes: predict, say what is right, export, prepare with the reader's table."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pandas as pd
import pytest
from serving_builders import make_room, phantom_dicom
from typer.testing import CliRunner

from cxr_mmdet.annotations.table import read_table
from cxr_mmdet.cli.feedback import app
from cxr_mmdet.dicom.identity import hash_content, hash_pixels
from cxr_mmdet.errors import DatasetError
from cxr_mmdet.preparation.build import BuildOptions, build_dataset
from cxr_mmdet.web.cases import Filter
from cxr_mmdet.web.feedback import export_feedback
from cxr_mmdet.web.store import Store, StoredImage, StoredReading
from cxr_mmdet.web.uploads import Upload
from cxr_mmdet.web.verdicts import Kind, Verdict

BOX = (10.0, 20.0, 110.0, 140.0)


def stored(content: str, *verdicts: Verdict, reader="R1", finished=True, name=None):
    return StoredReading(StoredImage(content * 64, content * 64, (400, 300), name), reader, finished, verdicts)


@pytest.fixture(scope="module")
def read_store(tmp_path_factory):
    """A folder of four phantoms, and a store in which a reader spoke on three of them under other file names."""
    folder = tmp_path_factory.mktemp("loop")
    train = folder / "radiographs" / "train"
    train.mkdir(parents=True)
    for index in range(4):
        (train / f"image{index}.dicom").write_bytes(phantom_dicom(index))
    room = make_room(store=Store.open(folder / "store"))
    uploads = [Upload(f"upload-{index}.dcm", phantom_dicom(index)) for index in range(3)]
    cases, problems = room.open_uploads(uploads, Filter(0.5, 0.5))
    assert not problems
    for case in cases:
        first, second, *others = list(case.findings())
        if case is cases[2]:
            others, first, second = list(case.findings()), None, None
        for finding in others:
            room.judge(case, "Dr Who", Kind.absent, finding)
        if first is not None:
            room.judge(case, "Dr Who", Kind.agree, first)
            room.judge(case, "Dr Who", Kind.wrong_box, second, box=BOX)
            room.judge(case, "Dr Who", Kind.missed, None, class_name="ILD", box=(5.0, 5.0, 60.0, 70.0))
        if case is not cases[1]:
            room.finish(case, "Dr Who")
    agreed = list(cases[0].findings())[:2]
    room.close()
    return folder, agreed


def test_from_verdict_to_prepared_folder(read_store, tmp_path):
    folder, (agreed, redrawn) = read_store
    source = folder / "radiographs"
    table = source / "train.csv"
    table.unlink(missing_ok=True)
    arguments = ["export", str(folder / "store"), str(table), "--images", str(source), "--unfinished"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    rows = read_table(table)
    assert set(rows["image_id"]) == {"image0", "image1", "image2"}
    assert set(rows["reader"]) == {"Dr Who"}
    assert list(rows.loc[rows["image_id"] == "image2", "class_name"]) == ["No finding"]
    first = rows[rows["image_id"] == "image0"]
    assert len(first) == 3
    got = dict(zip(first["class_name"] + first["x_min"].astype(str), first["y_max"], strict=True))
    assert got[f"{agreed.class_name}{round(agreed.box_xyxy[0], 2)}"] == pytest.approx(agreed.box_xyxy[3], abs=0.005)
    assert got[f"{redrawn.class_name}10.0"] == 140
    assert got["ILD5.0"] == 70

    summary = build_dataset(source, tmp_path / "prepared", BuildOptions(labels=("5",), val_ratio=0.34))
    assert summary.images == 3
    assert [failure.image_id for failure in summary.failures] == ["image3"], "nobody read it"
    cocos = [json.loads(path.read_text()) for path in (tmp_path / "prepared" / "annotations").glob("*_5.json")]
    assert sum(len(coco["annotations"]) for coco in cocos) == len(rows) - 1


def test_only_finished_readings_unless_asked(read_store, tmp_path):
    folder, _ = read_store
    store = Store.open(folder / "store")
    summary = export_feedback(store.readings(), tmp_path / "out.csv", images=folder / "radiographs")
    store.close()
    assert (summary.images, summary.unfinished, summary.unknown) == (2, 1, 0)
    assert set(pd.read_csv(tmp_path / "out.csv")["image_id"]) == {"image0", "image2"}


def test_a_radiograph_in_another_file_is_known_by_its_pixels(read_store, tmp_path):
    import io

    import pydicom

    folder, _ = read_store
    dataset = pydicom.dcmread(io.BytesIO(phantom_dicom(0)))
    dataset.PatientName, dataset.PatientID = "", ""
    dataset.save_as(tmp_path / "anonymous.dcm")
    (tmp_path / "broken.dcm").write_bytes(b"no radiograph")
    cv2.imwrite(str(tmp_path / "another.png"), (pd.Series(range(100)).to_numpy().reshape(10, 10)).astype("uint8"))
    store = Store.open(folder / "store")
    summary = export_feedback(store.readings(), tmp_path / "out.csv", images=tmp_path)
    store.close()
    assert (summary.images, summary.unknown) == (1, 1)
    assert set(pd.read_csv(tmp_path / "out.csv")["image_id"]) == {"anonymous"}


@pytest.mark.parametrize("there", ["first", "second", "third"])
def test_readings_of_two_files_with_the_same_pixels(tmp_path, there):
    """One of them was counted as unknown, although the file under --images shows what it was of."""
    image = np.arange(80, dtype=np.uint8).reshape(8, 10)
    files = {name: tmp_path / name / f"{name}.png" for name in ("first", "second", "third")}
    for level, path in enumerate(files.values()):
        path.parent.mkdir()
        cv2.imwrite(str(path), image, [cv2.IMWRITE_PNG_COMPRESSION, 3 * level])
    readings = [
        StoredReading(StoredImage(hash_content(files[name].read_bytes()), hash_pixels(image), (8, 10), None), *said)
        for name, said in (
            ("first", ("R1", True, (Verdict(Kind.agree, "ILD", BOX),))),
            ("second", ("R2", True, ())),
            ("second", ("R1", True, (Verdict(Kind.agree, "Cardiomegaly", BOX),))),
        )
    ]
    assert len({reading.image.content_sha256 for reading in readings}) == 2
    summary = export_feedback(readings, tmp_path / "a.csv", images=files[there].parent)
    assert (summary.images, summary.rows, summary.unknown) == (1, 2, 0)
    rows = pd.read_csv(tmp_path / "a.csv")
    assert rows[["image_id", "rad_id", "class_name"]].to_numpy().tolist() == [
        [there, "R1", "Cardiomegaly"],  # the latest of the radiograph, whichever file it was of
        [there, "R2", "No finding"],
    ]


def test_the_latest_reading_counts(tmp_path):
    old = stored("a", Verdict(Kind.agree, "ILD", BOX), name="x")
    new = stored("a", Verdict(Kind.absent, "ILD", BOX), name="x")
    export_feedback([old, new], tmp_path / "a.csv")
    assert list(pd.read_csv(tmp_path / "a.csv")["class_name"]) == ["No finding"]
    export_feedback([new, old], tmp_path / "a.csv")
    assert list(pd.read_csv(tmp_path / "a.csv")["class_name"]) == ["ILD"]


def test_two_findings_corrected_to_one_are_one(tmp_path):
    twice = stored("a", Verdict(Kind.wrong_box, "ILD", BOX), Verdict(Kind.wrong_box, "ILD", BOX), name="x")
    export_feedback([twice], tmp_path / "a.csv")
    assert len(read_table(tmp_path / "a.csv")) == 1


def test_a_name_for_all_readers(tmp_path):
    readings = [stored("a", name="x"), stored("b", name="y", reader="R2")]
    export_feedback(readings, tmp_path / "a.csv", reader="R99")
    assert set(read_table(tmp_path / "a.csv")["reader"]) == {"R99"}


def test_behind_an_existing_table_its_class_ids_count(tmp_path):
    table = tmp_path / "train.csv"
    table.write_text(
        "image_id,class_name,class_id,rad_id,x_min,y_min,x_max,y_max\n"
        "x,Cardiomegaly,3,R1,1,2,30,40\ny,No finding,14,R1,,,,\n"
    )
    verdicts = (Verdict(Kind.agree, "Cardiomegaly", BOX), Verdict(Kind.missed, "Brand new", BOX))
    export_feedback([stored("a", *verdicts, reader="R2", name="x")], tmp_path / "all.csv", table=table)
    rows = read_table(tmp_path / "all.csv")
    assert list(rows["class_id"]) == [3, 14, 3, 15]
    assert list(rows["reader"]) == ["R1", "R1", "R2", "R2"]


def test_patients_and_regions_of_an_existing_table_stay(tmp_path):
    """Without them a patient's images could stand on both sides of a split, and regions to ignore became findings."""
    table = tmp_path / "train.csv"
    table.write_text(
        "image_id,class_name,class_id,rad_id,x_min,y_min,x_max,y_max,iscrowd,PatientID\n"
        "x,Cardiomegaly,3,R1,1,2,30,40,0,007\ny,Cardiomegaly,3,R1,1,2,30,40,1,007\nz,No finding,14,R1,,,,,0,\n"
    )
    read = [stored(each, Verdict(Kind.agree, "Cardiomegaly", BOX), reader="R2", name=each) for each in ("b", "x")]
    export_feedback(read, tmp_path / "all.csv", table=table)
    before, after = read_table(table), read_table(tmp_path / "all.csv")
    pd.testing.assert_frame_equal(after.iloc[:3], before)
    assert list(after["image_id"][3:]) == ["b", "x"]
    assert list(after["iscrowd"][3:]) == [False, False]
    assert list(after["group"][3:].fillna("unknown")) == ["unknown", "007"]


@pytest.mark.parametrize(
    ("readings", "message"),
    [
        ([], "holds no reading"),
        ([stored("a", finished=False, name="x")], "none of 1 reading is finished"),
        ([stored("a")], "give their folder by --images"),
    ],
)
def test_nothing_to_write(tmp_path, readings, message):
    with pytest.raises(DatasetError, match=message):
        export_feedback(readings, tmp_path / "a.csv")
    assert list(tmp_path.iterdir()) == []


def test_the_command_refuses(tmp_path):
    (tmp_path / "out.csv").write_text("mine")
    result = CliRunner().invoke(app, ["export", str(tmp_path), str(tmp_path / "out.csv")])
    assert result.exit_code == 2
    assert "exists; pass --force" in result.output
    result = CliRunner().invoke(app, ["export", str(tmp_path), str(tmp_path / "new.csv")])
    assert result.exit_code == 2
    assert "holds no store" in result.output
    assert (tmp_path / "out.csv").read_text() == "mine"
    Store.open(tmp_path / "store").close()
    kept = (tmp_path / "store" / "readings.sqlite").read_bytes()
    for arguments in (
        [str(tmp_path / "store"), str(tmp_path / "store" / "readings.sqlite")],
        [str(tmp_path / "store"), str(tmp_path / "out.csv"), "--append-to", str(tmp_path / "out.csv")],
    ):
        result = CliRunner().invoke(app, ["export", *arguments, "--force"])
        assert result.exit_code == 2
        assert "is read by this command and would be lost" in " ".join(result.output.split())
    assert (tmp_path / "store" / "readings.sqlite").read_bytes() == kept
