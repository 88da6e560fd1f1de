"""The store keeps what was said and nothing that names a patient, and gives it back."""

from __future__ import annotations

import os
import sqlite3

import pytest
from serving_builders import make_room, phantom_dicom
from sqlalchemy import create_engine, inspect, text

from cxr_mmdet.errors import UsageError
from cxr_mmdet.structures.detections import Finding
from cxr_mmdet.web.cases import Filter
from cxr_mmdet.web.store import FILE_NAME, Store, StoredImage, StoreError
from cxr_mmdet.web.uploads import Upload
from cxr_mmdet.web.verdicts import Kind, Reading

IMAGE = StoredImage("c" * 64, "p" * 64, (100, 80))
FINDINGS = [
    Finding(0, "ILD", 0.75, (1.5, 2.5, 30.25, 40.0)),
    Finding(1, "Cardiomegaly", 0.5, (0.0, 0.0, 80.0, 100.0)),
]
SHOWN = Filter(0.3, 0.5, frozenset({"Infiltration"}))


@pytest.fixture
def store(tmp_path):
    store = Store.open(tmp_path / "store")
    yield store
    store.close()


def add(store, findings=FINDINGS, image=IMAGE):
    return store.add_prediction(image, model_id="m@1", seconds=0.25, shown=SHOWN, findings=findings)


def rows(tmp_path, table):
    with sqlite3.connect(tmp_path / "store" / FILE_NAME) as connection:
        connection.row_factory = sqlite3.Row
        return [dict(row) for row in connection.execute(f"SELECT * FROM {table} ORDER BY 1")]


def test_a_prediction_is_kept_with_thresholds_and_boxes(store, tmp_path):
    add(store)
    (prediction,) = rows(tmp_path, "cxr_prediction")
    assert (prediction["model_id"], prediction["score_threshold"], prediction["nms_iou"]) == ("m@1", 0.3, 0.5)
    assert prediction["hidden_classes"] == '["Infiltration"]'
    boxes = rows(tmp_path, "cxr_box")
    assert [(box["class_name"], box["score"], box["x_min"], box["y_max"]) for box in boxes] == [
        ("ILD", 0.75, 1.5, 40.0),
        ("Cardiomegaly", 0.5, 0.0, 100.0),
    ]


def test_verdicts_come_back_and_later_ones_replace_earlier_ones(store):
    number = add(store)
    reading = Reading()
    reading.judge(Kind.agree, FINDINGS[0], class_name=None, box=None, size_hw=(100, 80))
    store.save_reading(number, reader="R1", reading=reading, shown=SHOWN, findings=FINDINGS)
    (stored,) = store.readings()
    assert (stored.reader, stored.finished, stored.image) == ("R1", False, IMAGE)
    reading.judge(Kind.absent, FINDINGS[0], class_name=None, box=None, size_hw=(100, 80))
    reading.judge(Kind.missed, None, class_name="ILD", box=(1, 2, 3, 4), size_hw=(100, 80))
    reading.finish(FINDINGS[:1])
    store.save_reading(number, reader="R1", reading=reading, shown=SHOWN, findings=FINDINGS)
    (stored,) = store.readings()
    assert stored.finished
    assert [(v.kind.name, v.class_name, v.box_xyxy) for v in stored.verdicts] == [
        ("absent", "ILD", (1.5, 2.5, 30.25, 40.0)),
        ("missed", "ILD", (1.0, 2.0, 3.0, 4.0)),
    ]


def test_the_prediction_is_kept_as_it_was_shown_with_the_verdict(store, tmp_path):
    number = add(store)
    store.save_reading(number, reader="R1", reading=Reading(), shown=Filter(0.6, 0.4), findings=FINDINGS[:1])
    (prediction,) = rows(tmp_path, "cxr_prediction")
    assert (prediction["score_threshold"], prediction["nms_iou"]) == (0.6, 0.4)
    assert len(rows(tmp_path, "cxr_box")) == 1


def test_readers_do_not_replace_each_other(store):
    number = add(store)
    for reader in ("R1", "R2"):
        store.save_reading(number, reader=reader, reading=Reading(), shown=SHOWN, findings=FINDINGS)
    assert [stored.reader for stored in store.readings()] == ["R1", "R2"]


def test_one_radiograph_is_one_image(store, tmp_path):
    add(store)
    add(store)
    add(store, image=StoredImage("d" * 64, "p" * 64, (100, 80)))
    assert len(rows(tmp_path, "cxr_image")) == 2
    assert len(rows(tmp_path, "cxr_prediction")) == 3


def test_it_outlives_the_process(store, tmp_path):
    store.save_reading(add(store), reader="R1", reading=Reading(), shown=SHOWN, findings=[])
    store.close()
    again = Store.open(tmp_path / "store", must_exist=True)
    assert len(again.readings()) == 1
    again.close()


def test_nobody_is_named_unless_asked_for(tmp_path):
    content = phantom_dicom()
    upload = Upload("DOE_JOHN_1950.dcm", content)
    for keep in (False, True):
        folder = tmp_path / str(keep)
        room = make_room(store=Store.open(folder), keep_identity=keep)
        (case,), _ = room.open_uploads([upload], room.default_filter)
        patient = case.decoded.radiograph.patient_id
        room.close()
        kept = b"".join(path.read_bytes() for path in folder.iterdir())
        assert patient
        assert (b"DOE_JOHN" in kept) is keep
        assert (patient.encode() in kept) is keep
        assert b"Phantom^" not in kept


def test_no_store(tmp_path):
    with pytest.raises(UsageError, match="holds no store"):
        Store.open(tmp_path, must_exist=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("where", "message"),
    [("nosuchdb://host/x", "not a database URL"), ("postgresql+psycopg9://u:secret@host/x", "not a database URL")],
)
def test_urls_that_are_none(where, message):
    with pytest.raises(UsageError, match=message) as error:
        Store.open(where)
    assert "secret" not in str(error.value)


def test_a_file_that_is_no_database(tmp_path):
    (tmp_path / FILE_NAME).write_bytes(b"hello" * 1000)
    with pytest.raises(StoreError, match="not a database"):
        Store.open(tmp_path)


def test_another_versions_store(store, tmp_path):
    store.close()
    engine = create_engine(f"sqlite:///{tmp_path / 'store' / FILE_NAME}")
    tables = {"cxr_image", "cxr_prediction", "cxr_box", "cxr_reading", "cxr_verdict"}
    assert tables < set(inspect(engine).get_table_names())
    with engine.begin() as connection:
        connection.execute(text("UPDATE cxr_schema SET version = 99"))
    with pytest.raises(StoreError, match="schema 99, expected 1"):
        Store.open(tmp_path / "store")


def test_a_prediction_that_is_gone(store):
    with pytest.raises(StoreError, match="prediction 7 is not in the store"):
        store.save_reading(7, reader="R1", reading=Reading(), shown=SHOWN, findings=[])


@pytest.mark.skipif(
    "CXR_POSTGRES_URL" not in os.environ, reason="needs a PostgreSQL database named by CXR_POSTGRES_URL"
)
def test_postgresql():
    for _ in range(2):
        store = Store.open(os.environ["CXR_POSTGRES_URL"])
        before = len(store.readings())
        number = add(store)
        reading = Reading()
        reading.judge(Kind.wrong_class, FINDINGS[0], class_name="Infiltration", box=None, size_hw=(100, 80))
        for _ in range(2):
            store.save_reading(number, reader="R1", reading=reading, shown=SHOWN, findings=FINDINGS)
        stored = store.readings()
        store.close()
        assert len(stored) == before + 1
        assert [(v.kind.name, v.class_name) for v in stored[-1].verdicts] == [("wrong_class", "Infiltration")]
        assert stored[-1].image == IMAGE


@pytest.mark.skipif(os.name != "posix", reason="permissions are POSIX's")
def test_nobody_else_reads_a_store(tmp_path):
    before = os.umask(0)
    try:
        folder = tmp_path / "new" / "store"
        store = Store.open(folder)
        assert folder.stat().st_mode & 0o777 == 0o700
        add(store)
        modes = {file.name: file.stat().st_mode & 0o777 for file in folder.iterdir()}
        assert len(modes) == 3, "the database, its log and its index"
        assert set(modes.values()) == {0o600}
        store.close()
        # One that an earlier version made.
        (folder / "readings.sqlite").chmod(0o644)
        Store.open(folder).close()
        assert (folder / "readings.sqlite").stat().st_mode & 0o777 == 0o600
    finally:
        os.umask(before)
