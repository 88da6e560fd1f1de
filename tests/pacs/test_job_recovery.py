"""What a start and ``repair`` make of a folder whose database is lost, damaged or older than the files."""

from __future__ import annotations

import logging
import shutil
import sqlite3
from typing import TYPE_CHECKING

import pytest
from node_builders import ARCHIVE, FINDINGS, HEADER, open_store, radiograph_file

from cxr_mmdet.dicom.report import structured_report, to_bytes
from cxr_mmdet.errors import UsageError
from cxr_mmdet.pacs.job_database import (
    QueueDamagedError,
    State,
    count_deliveries,
    count_states,
    forget_destination,
    list_jobs,
    list_undelivered,
    open_queue,
    retry_failed,
)
from cxr_mmdet.pacs.job_folder import file_stem, list_quarantine
from cxr_mmdet.pacs.job_recovery import repair

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from cxr_mmdet.pacs.job_database import Job
    from cxr_mmdet.pacs.job_store import JobStore

QUEUED, PREDICTED, DONE, FAILED = "1.2.1", "1.2.2", "1.2.3", "1.2.4"


def results_of(uid: str) -> dict[str, bytes]:
    """Return a report that refers to the radiograph, as the node's do, and a file that refers to none."""
    HEADER.SOPInstanceUID = uid
    return {"1-report": to_bytes(structured_report(FINDINGS, HEADER)), "2-capture": b"sc"}


def take(store: JobStore, uid: str) -> Job:
    job = store.next_queued()
    assert job is not None
    assert job.sop_instance_uid == uid
    return job


def deliver(store: JobStore, uid: str, destination: str = ARCHIVE) -> None:
    delivery = store.next_delivery(destination)
    assert delivery is not None
    assert delivery.job.sop_instance_uid == uid
    store.delivered(delivery)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A stopped node's folder with one radiograph in each state."""
    store = open_store(tmp_path / "state")
    for uid in (FAILED, DONE, PREDICTED, QUEUED):
        store.accept(uid, radiograph_file(uid), "A@b")
    store.fail(take(store, FAILED), "broken")
    store.predicted(take(store, DONE), results_of(DONE), 1, "identity")
    deliver(store, DONE)
    store.predicted(take(store, PREDICTED), results_of(PREDICTED), 1, "identity")
    store.close()
    return tmp_path / "state"


def start(folder: Path, *destinations: str) -> None:
    open_store(folder, *destinations).close()


def jobs(folder: Path) -> dict[str, str]:
    with open_queue(folder) as queue:
        return {job.sop_instance_uid: job.state.value for state in State for job in list_jobs(queue, state)}


def files(folder: Path) -> set[str]:
    return {path.name for part in ("images", "results") for path in (folder / part).iterdir()}


def edit(folder: Path, statement: str, *values: object) -> None:
    with sqlite3.connect(folder / "queue.sqlite") as database:
        database.execute(statement, values)
    database.close()


def pad(folder: Path) -> None:
    """Give the database more pages than one can damage at once."""
    with sqlite3.connect(folder / "queue.sqlite") as database:
        database.executemany(
            "INSERT INTO jobs (sop_instance_uid, file, sender, received, state, changed)"
            " VALUES (?, ?, 'A@b', 1.0, 'done', 1.0)",
            [(f"2.{number}", file_stem(f"2.{number}")) for number in range(400)],
        )
    database.close()


def overwrite(folder: Path, offset: int, content: bytes) -> None:
    with (folder / "queue.sqlite").open("r+b") as file:
        file.seek(offset)
        file.write(content)


LOSSES: dict[str, Callable[[Path], None]] = {
    "deleted": lambda database: database.unlink(),
    "truncated to nothing": lambda database: database.write_bytes(b""),
}


@pytest.mark.parametrize("loss", LOSSES)
def test_a_lost_database_loses_no_radiograph(folder: Path, loss: str):
    before = files(folder)
    LOSSES[loss](folder / "queue.sqlite")
    start(folder)
    # What failed is tried once more, and what was done has left no files.
    assert jobs(folder) == {QUEUED: "queued", FAILED: "queued", PREDICTED: "predicted"}
    assert files(folder) == before
    store = open_store(folder)
    assert not store.accept(QUEUED, radiograph_file(QUEUED), "A@b"), "its content is known again"
    assert store.accept(DONE, radiograph_file(DONE), "A@b"), "it is predicted and delivered once more"
    store.close()


DAMAGES: dict[str, Callable[[Path], None]] = {
    "no database": lambda folder: overwrite(folder, 0, b"x" * 100),
    "cut off": lambda folder: (folder / "queue.sqlite").write_bytes((folder / "queue.sqlite").read_bytes()[:9000]),
    "a page": lambda folder: overwrite(folder, 7 * 4096, b"\xff" * 4096),
    "no table": lambda folder: edit(folder, "DROP TABLE jobs"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_database_is_said_and_repaired(folder: Path, damage: str):
    pad(folder)
    before = files(folder)
    DAMAGES[damage](folder)
    damaged = (folder / "queue.sqlite").read_bytes()
    with pytest.raises(QueueDamagedError, match=f"database is damaged .*dicom_node.* repair --state {folder}"):
        start(folder)
    assert files(folder) == before
    assert (folder / "queue.sqlite").read_bytes()[:100] == damaged[:100]
    kept = repair(folder)
    assert kept is not None
    assert kept.read_bytes()[:100] == damaged[:100]
    assert files(folder) == before
    found = jobs(folder)
    assert {uid: state for uid, state in found.items() if uid in (QUEUED, PREDICTED, FAILED)} == {
        QUEUED: "queued",
        FAILED: "queued",
        PREDICTED: "predicted",
    }
    salvaged = sum(uid.startswith("2.") for uid in found)
    assert 0 < salvaged < 400 if damage == "a page" else salvaged == 0
    start(folder)
    assert jobs(folder) == found


def test_repair_keeps_what_a_sound_database_knows(folder: Path):
    repair(folder)
    assert jobs(folder) == {QUEUED: "queued", FAILED: "queued", PREDICTED: "predicted", DONE: "done"}
    assert repair(folder) == folder / "queue.sqlite.damaged-2"


def test_repair_of_a_running_node_and_of_no_node_is_refused(folder: Path, tmp_path: Path):
    store = open_store(folder)
    with pytest.raises(UsageError, match="another DICOM node uses this folder"):
        repair(folder)
    store.close()
    with pytest.raises(UsageError, match="is not the folder of a DICOM node"):
        repair(tmp_path)
    assert not list(tmp_path.glob("queue*"))


def test_a_write_ahead_log_that_is_missing(tmp_path: Path):
    """As after copying the database alone: its rows are older than the files, or not there at all."""
    store = open_store(tmp_path / "state")
    store.accept(QUEUED, radiograph_file(QUEUED), "A@b")
    copy = tmp_path / "copy"
    shutil.copytree(store.folder, copy)
    for companion in ("queue.sqlite-wal", "queue.sqlite-shm"):
        (copy / companion).unlink()
    start(copy)
    assert jobs(copy) == {QUEUED: "queued"}
    shutil.copytree(store.folder, older := tmp_path / "older")
    store.predicted(take(store, QUEUED), results_of(QUEUED), 1, "identity")
    for part in ("images", "results"):
        shutil.rmtree(older / part)
        shutil.copytree(store.folder / part, older / part)
    start(older)
    assert jobs(older) == {QUEUED: "predicted"}
    assert len(files(older)) == 2
    store.close()


def test_an_unknown_state_is_that_of_the_files(folder: Path):
    edit(folder, "UPDATE jobs SET state = 'waiting'")
    with open_queue(folder) as queue:
        assert count_states(queue) == {"queued": 0, "predicted": 0, "done": 0, "failed": 4}
        assert {job.reason for job in list_jobs(queue, State.failed)} == {
            "the database holds an unknown state, 'waiting'"
        }
    start(folder)
    assert jobs(folder) == {QUEUED: "queued", FAILED: "queued", PREDICTED: "predicted", DONE: "failed"}
    with open_queue(folder) as queue:
        assert retry_failed(folder, queue) == 0, "nothing of it is left to try"


def test_what_is_not_of_the_queue_is_set_aside_and_named(
    folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    node_log = logging.getLogger("cxr_mmdet.node")
    monkeypatch.setattr(node_log, "disabled", False)  # as another test of this process may have left it
    monkeypatch.setattr(node_log, "propagate", True)
    caplog.set_level(logging.WARNING, logger=node_log.name)
    before = files(folder)
    (folder / "images" / "stray").mkdir()
    (folder / "images" / "notes.txt").write_text("alien")
    (folder / "images" / f"{file_stem('9.9')}.dcm").write_bytes(b"no DICOM file")
    (folder / "results" / f"{file_stem('9.9')}-1-report.dcm").write_bytes(radiograph_file("9.8"))
    (folder / "results" / "link.dcm").symlink_to(folder / "queue.sqlite")
    (folder / "images" / f".{file_stem('9.9')}.dcm.part").write_bytes(b"half")
    start(folder)
    assert files(folder) == before, "the half file was never acknowledged"
    named = {"stray", "notes.txt", "link.dcm", f"{file_stem('9.9')}.dcm", f"{file_stem('9.9')}-1-report.dcm"}
    assert set(list_quarantine(folder)) == named
    assert all(name in caplog.text for name in named)
    (folder / "images" / "notes.txt").write_text("another")
    start(folder)
    assert {"notes.txt", "notes.txt.1"} <= set(list_quarantine(folder))


def test_a_file_without_a_row_that_cannot_be_read_is_set_aside(folder: Path, monkeypatch: pytest.MonkeyPatch):
    def fail(*_: object) -> str:
        raise OSError(5, "Input/output error")

    (folder / "queue.sqlite").unlink()
    monkeypatch.setattr("cxr_mmdet.pacs.job_recovery._uid_in", fail)
    start(folder)
    assert len(list_quarantine(folder)) == 4
    assert jobs(folder) == {}


def test_a_row_that_has_moved_on_lets_go_of_its_own_image_only(folder: Path):
    """A kill leaves an image behind; another one under its name is newer than the row, and is kept."""
    image = folder / "images" / f"{file_stem(DONE)}.dcm"
    image.write_bytes(radiograph_file(DONE))
    start(folder)
    assert not image.exists()
    assert jobs(folder)[DONE] == "done"
    image.write_bytes(radiograph_file(DONE, grey=8))
    start(folder)
    assert image.exists()
    assert jobs(folder)[DONE] == "queued"


def test_rows_without_files_fail_and_say_so(folder: Path):
    for part in ("images", "results"):
        shutil.rmtree(folder / part)
    start(folder)
    assert jobs(folder) == {QUEUED: "failed", PREDICTED: "failed", DONE: "done", FAILED: "failed"}
    with open_queue(folder) as queue:
        reasons = {job.sop_instance_uid: job.reason for job in list_jobs(queue, State.failed)}
    assert "send the radiograph again" in reasons[QUEUED]
    store = open_store(folder)
    assert store.accept(QUEUED, radiograph_file(QUEUED), "A@b")
    store.close()


def test_a_queue_of_one_destination_is_taken_over(folder: Path):
    """What waits, or was refused, is owed to every destination; what was done is done."""
    store = open_store(folder)
    store.accept("1.2.5", radiograph_file("1.2.5"), "A@b")
    take(store, QUEUED)
    store.predicted(take(store, QUEUED), results_of(QUEUED), 1, "identity")
    store.fail(store.next_delivery(ARCHIVE), "deliver me")
    store.close()
    edit(folder, "DROP TABLE deliveries")
    edit(folder, "UPDATE jobs SET reason = 'refused' WHERE reason = 'deliver me'")
    edit(folder, "PRAGMA user_version = 2")
    before = {"1.2.5": "queued", QUEUED: "predicted", PREDICTED: "failed", DONE: "done", FAILED: "failed"}
    assert jobs(folder) == before
    with open_queue(folder) as queue:
        assert count_deliveries(queue) == {}, "status looks without converting it"
        assert forget_destination(queue, ARCHIVE) == 0
    start(folder, "ONE", "TWO")
    assert jobs(folder) == before
    with open_queue(folder) as queue:
        expected = {"waiting": 1, "delivered": 0, "failed": 1}
        assert count_deliveries(queue) == {"ONE": expected, "TWO": expected}
        assert {delivery.reason for _, delivery in list_undelivered(queue)} == {"refused"}
        assert retry_failed(folder, queue) == 2
    store = open_store(folder, "ONE", "TWO")
    for uid in (PREDICTED, QUEUED):
        deliver(store, uid, "ONE")
    assert jobs(folder)[QUEUED] == "predicted"
    deliver(store, PREDICTED, "TWO")
    assert jobs(folder)[PREDICTED] == "done"
    store.close()


def test_a_mark_of_the_version_with_one_destination_means_done(folder: Path):
    for path in (folder / "results").iterdir():
        path.unlink()
    (folder / "results" / f"{file_stem(PREDICTED)}.delivered").touch()
    start(folder)
    assert jobs(folder)[PREDICTED] == "done"
    assert not list((folder / "results").iterdir())


def test_repair_knows_which_destination_has_what(folder: Path):
    store = open_store(folder, ARCHIVE, "TWO")
    deliver(store, PREDICTED)
    store.close()
    repair(folder)
    store = open_store(folder, ARCHIVE, "TWO")
    assert store.next_delivery(ARCHIVE) is None
    deliver(store, PREDICTED, "TWO")
    store.close()
    assert jobs(folder)[PREDICTED] == "done"


def test_what_waits_for_a_destination_that_is_gone_is_kept_until_it_is_forgotten(
    folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(logging.getLogger("cxr_mmdet.node"), "disabled", False)
    monkeypatch.setattr(logging.getLogger("cxr_mmdet.node"), "propagate", True)
    store = open_store(folder, "NEW")
    assert f"1 radiographs wait for the destination {ARCHIVE}, which is not configured" in caplog.text
    deliver(store, PREDICTED, "NEW")
    assert jobs(folder)[PREDICTED] == "predicted"
    with open_queue(folder) as queue:
        assert forget_destination(queue, ARCHIVE) == 1
    store.close()
    start(folder, "NEW")
    assert jobs(folder)[PREDICTED] == "done"
    assert {name for name in files(folder) if name.startswith(file_stem(PREDICTED))} == set()


def test_a_queue_of_the_version_before_is_taken_over(folder: Path):
    for column in ("content_sha256", "identity"):
        edit(folder, f"ALTER TABLE jobs DROP COLUMN {column}")
    edit(folder, "PRAGMA user_version = 1")
    before = {QUEUED: "queued", PREDICTED: "predicted", DONE: "done", FAILED: "failed"}
    assert jobs(folder) == before, "status looks without converting it"
    start(folder)
    assert jobs(folder) == before
    store = open_store(folder)
    assert not store.accept(QUEUED, radiograph_file(QUEUED), "A@b")
    assert store.accept(DONE, radiograph_file(DONE), "A@b"), "nobody knows what it was"
    store.close()
