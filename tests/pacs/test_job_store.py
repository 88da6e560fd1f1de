"""The node's queue: what it promises at every point where a process may die."""

from __future__ import annotations

import contextlib
import errno
import multiprocessing
import os
import sqlite3
import stat
import subprocess
import time
from typing import TYPE_CHECKING

import pytest
from node_builders import ARCHIVE, open_store, radiograph_file
from pydicom.uid import ImplicitVRLittleEndian, RLELossless

from cxr_mmdet.dicom.identity import identify
from cxr_mmdet.dicom.radiograph import read_radiograph
from cxr_mmdet.dicom.report import read_header
from cxr_mmdet.errors import UsageError
from cxr_mmdet.pacs.job_database import State, count_states, list_jobs, open_queue, retry_failed
from cxr_mmdet.pacs.job_folder import MIN_RESERVE_BYTES, DiskError, list_quarantine, mark_name
from cxr_mmdet.pacs.job_store import LONGEST_DELAY_S, JobStore, OtherContentError

if TYPE_CHECKING:
    from pathlib import Path

RESULTS = {"1-report": b"sr", "2-capture": b"sc"}


@pytest.fixture
def store(tmp_path: Path):
    opened = open_store(tmp_path / "state")
    yield opened
    opened.close()


def next_job(store: JobStore):
    job = store.next_queued()
    assert job is not None
    return job


def next_delivery(store: JobStore, destination: str = ARCHIVE):
    delivery = store.next_delivery(destination)
    assert delivery is not None
    return delivery


def states(folder: Path) -> dict[str, int]:
    with open_queue(folder) as queue:
        return {state: count for state, count in count_states(queue).items() if count}


def test_the_way_of_a_radiograph(store: JobStore):
    assert store.next_queued() is None
    assert store.accept("1.2", b"image", "A@b")
    job = next_job(store)
    assert (job.sop_instance_uid, job.sender, store.read_image(job)) == ("1.2", "A@b", b"image")
    store.predicted(job, RESULTS, 3)
    assert not list((store.folder / "images").iterdir())
    delivery = next_delivery(store)
    assert delivery.job.findings == 3
    assert [path.read_bytes() for path in store.result_files(delivery.job)] == [b"sr", b"sc"]
    store.delivered(delivery)
    assert states(store.folder) == {"done": 1}
    assert not list((store.folder / "results").iterdir())


def test_one_after_the_other_in_order_of_arrival(store: JobStore):
    for uid in ("3", "1", "2"):
        store.accept(uid, b"", "A@b")
    order = []
    while (job := store.next_queued()) is not None:
        order.append(job.sop_instance_uid)
        store.fail(job, "no")
    assert order == ["3", "1", "2"]


def test_a_duplicate_is_no_new_job_in_any_state_but_failed(store: JobStore):
    assert store.accept("1", b"image", "A@b")
    assert not store.accept("1", b"image", "A@b")
    assert store.read_image(next_job(store)) == b"image"
    store.fail(next_job(store), "broken")
    assert store.accept("1", b"mended", "A@b")
    assert store.read_image(next_job(store)) == b"mended"
    store.predicted(next_job(store), RESULTS, 0)
    assert not store.accept("1", b"mended", "A@b")
    store.delivered(next_delivery(store))
    assert not store.accept("1", b"mended", "A@b")
    assert states(store.folder) == {"done": 1}


def test_what_is_postponed_waits_and_can_be_hurried(store: JobStore):
    store.accept("1", b"", "A@b")
    store.begin(next_job(store))
    store.postpone(next_job(store), "later", 3600)
    assert store.next_queued() is None
    store.accept("2", b"", "A@b")
    store.predicted(next_job(store), RESULTS, 0)
    store.postpone(next_delivery(store), "later", 3600)
    for reason in ("later", "another reason"):
        assert store.next_delivery(ARCHIVE) is None
        store.hurry("ANOTHER" if reason == "later" else ARCHIVE, reason)
    store.hurry(ARCHIVE, "later")
    delivery = next_delivery(store)
    assert (delivery.attempts, delivery.refusals, delivery.reason) == (1, 0, "later")
    store.postpone(delivery, "later", 3600, refused=True)
    store.hurry(ARCHIVE, "later")
    assert store.next_delivery(ARCHIVE) is None, "what was refused waits, whatever becomes of the others"


def test_what_failed_is_tried_again_at_the_step_where_it_failed(store: JobStore):
    for uid in ("1", "2"):
        store.accept(uid, b"", "A@b")
    store.predicted(next_job(store), RESULTS, 1)
    store.fail(next_delivery(store), "refused")
    store.fail(next_job(store), "unreadable")
    with open_queue(store.folder) as queue:
        assert [job.reason for job in list_jobs(queue, State.failed)] == ["refused", "unreadable"]
        assert retry_failed(store.folder, queue) == 2
    assert next_delivery(store).job.sop_instance_uid == "1"
    assert next_job(store).sop_instance_uid == "2"


def test_one_folder_serves_one_node(store: JobStore):
    with pytest.raises(UsageError, match="another DICOM node uses this folder"):
        open_store(store.folder)


def test_a_folder_that_is_none_and_one_of_the_future(tmp_path: Path):
    with pytest.raises(UsageError, match="is not the folder of a DICOM node"), open_queue(tmp_path):
        pass
    (tmp_path / "file").write_text("")
    with pytest.raises(DiskError, match="cannot be used for the queue"):
        open_store(tmp_path / "file")
    open_store(tmp_path / "state").close()
    with sqlite3.connect(tmp_path / "state" / "queue.sqlite") as database:
        database.execute("PRAGMA user_version = 99")
    with pytest.raises(UsageError, match="later version"):
        open_store(tmp_path / "state")


def test_each_commit_is_synced(store: JobStore):
    connection = store._connection
    assert connection.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
    assert connection.execute("PRAGMA synchronous").fetchone()[0] == 2


def test_a_full_disk_leaves_neither_row_nor_file(store: JobStore, monkeypatch: pytest.MonkeyPatch):
    # SQLite's own way to be full: no page more than it has.
    (pages,) = store._connection.execute("PRAGMA page_count").fetchone()
    store._connection.execute(f"PRAGMA max_page_count = {pages}")
    accepted = 0

    def accept_for_ever() -> None:
        nonlocal accepted
        while True:
            store.accept(f"1.{accepted}." + "9" * 50, b"image", "A@b")
            accepted += 1

    with pytest.raises(DiskError, match=r"cannot take another radiograph .*full"):
        accept_for_ever()
    assert accepted > 0
    assert states(store.folder) == {"queued": accepted}
    assert len(list((store.folder / "images").iterdir())) == accepted
    store._connection.execute("PRAGMA max_page_count = 1000000")
    assert store.accept("2", b"image", "A@b")


STEPS = ["image written", "row written", "results written", "row moved", "sent"]


def _die_at(folder: Path, step: str) -> None:
    """Bring one radiograph as far as ``step`` and die there without any clean-up, as SIGKILL does."""
    store = open_store(folder)
    run = store._run

    def die_before_commit(*arguments: object) -> None:
        os._exit(9)

    if step == "image written":
        store._run = die_before_commit  # type: ignore[method-assign]
    store.accept("1", radiograph_file("1"), "A@b")
    if step == "row written":
        os._exit(9)
    job = store.next_queued()
    assert job is not None
    if step == "results written":
        store._run = die_before_commit  # type: ignore[method-assign]
    if step == "row moved":
        store._run = lambda *arguments: (run(*arguments), os._exit(9))  # type: ignore[method-assign,assignment]
    store.predicted(job, RESULTS, 0)
    store._run = die_before_commit  # type: ignore[method-assign]
    delivery = store.next_delivery(ARCHIVE)
    assert delivery is not None
    store.delivered(delivery)


@pytest.mark.parametrize("step", STEPS)
def test_a_kill_at_any_step_loses_nothing_that_was_accepted(tmp_path: Path, step: str):
    process = multiprocessing.get_context("fork").Process(target=_die_at, args=(tmp_path / "state", step))
    process.start()
    process.join()
    assert process.exitcode == 9
    store = open_store(tmp_path / "state")
    expected = {
        "image written": {"queued": 1},  # nobody was told that it is safe, and it is
        "row written": {"queued": 1},
        "results written": {"queued": 1},
        "row moved": {"predicted": 1},
        "sent": {"predicted": 1},
    }
    assert states(store.folder) == expected[step]
    files = {part: len(list((store.folder / part).iterdir())) for part in ("images", "results")}
    queued, predicted = expected[step].get("queued", 0), expected[step].get("predicted", 0)
    assert files == {"images": queued, "results": 2 * predicted}
    if step == "image written":
        assert not store.accept("1", radiograph_file("1"), "A@b")
    store.close()


IN_OTHER_SYNTAXES = (radiograph_file("1", syntax=ImplicitVRLittleEndian), radiograph_file("1", syntax=RLELossless))
OTHERS = {"pixels": radiograph_file("1", grey=8), "patient": radiograph_file("1", patient="P2"), "no image": b"image"}


@pytest.mark.parametrize("state", ["queued", "predicted", "done", "failed"])
def test_a_reused_uid_with_other_content_is_refused_whatever_became_of_the_first(store: JobStore, state: str):
    first = radiograph_file("1")
    store.accept("1", first, "A@b")
    job = next_job(store)
    if state in ("predicted", "done"):
        identity = identify(read_header(first), read_radiograph(first))
        store.predicted(job, RESULTS, 0, identity)
    if state == "done":
        store.delivered(next_delivery(store))
    if state == "failed":
        store.fail(job, "the model failed")
    for other in OTHERS.values():
        with pytest.raises(OtherContentError, match=r"1: belongs to a radiograph of A@b .*another patient"):
            store.accept("1", other, "C@d")
    for same in (first, *IN_OTHER_SYNTAXES):
        assert store.accept("1", same, "A@b") is (state == "failed")
        state = "queued" if state == "failed" else state
    assert states(store.folder) == {state: 1}
    if state == "queued":
        assert store.read_image(next_job(store)) == first
    assert not list_quarantine(store.folder)


def test_what_was_damaged_may_be_sent_again_mended_and_is_kept_beside(store: JobStore):
    store.accept("1", b"damaged", "A@b")
    store.fail(next_job(store), "no radiograph")
    assert store.accept("1", radiograph_file("1"), "A@b")
    (name,) = list_quarantine(store.folder)
    assert (store.folder / "quarantine" / name).read_bytes() == b"damaged"


def test_a_clock_that_is_set_back_makes_nothing_wait(store: JobStore, monkeypatch: pytest.MonkeyPatch):
    year, now = 365 * 86400, time.time()
    store.accept("1", b"image", "A@b")
    monkeypatch.setattr(time, "time", lambda: now - year)
    store.postpone(next_job(store), "later", 0.05)
    assert store.next_queued() is None
    time.sleep(0.06)
    store.postpone(next_job(store), "later", LONGEST_DELAY_S)
    store.close()
    again = open_store(store.folder)  # a year before the time that the row waits for
    row = again._one("SELECT * FROM jobs")
    assert row is not None
    assert row.not_before == pytest.approx(now - year + LONGEST_DELAY_S, abs=60)
    again.close()


def test_the_queue_is_readable_by_its_user_only(tmp_path: Path):
    folder = tmp_path / "state"
    (folder / "images").mkdir(parents=True)
    folder.chmod(0o755)
    opened = open_store(folder)
    opened.accept("1", b"image", "A@b")
    assert [stat.S_IMODE((folder / name).stat().st_mode) for name in (".", "images", "results")] == [0o700] * 3
    companions = list(folder.glob("queue.sqlite*"))
    assert len(companions) == 3
    assert {stat.S_IMODE(path.stat().st_mode) for path in companions} == {0o600}
    opened.close()
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o755)
    (shared / "other things").touch()
    open_store(shared).close()
    assert [stat.S_IMODE((shared / name).stat().st_mode) for name in (".", "images")] == [0o755, 0o700]


def test_on_a_full_disk_what_was_delivered_is_freed(store: JobStore, monkeypatch: pytest.MonkeyPatch):
    """Also where another program takes the reserve's room at once."""
    store.accept("1", b"image", "A@b")
    store.predicted(next_job(store), RESULTS, 0)
    delivery = next_delivery(store)

    def full(*_: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(store, "_run", full)
        with pytest.raises(sqlite3.OperationalError):
            store.delivered(delivery)
        mark = mark_name(delivery.job.file, ARCHIVE)
        assert [path.name for path in (store.folder / "results").iterdir()] == [mark]
        assert not (store.folder / "reserve").exists()
        assert store.is_delivered(delivery)
    store.close()
    again = open_store(store.folder)
    assert states(again.folder) == {"done": 1}
    assert not list((again.folder / "results").iterdir())
    again.close()


def test_on_a_full_disk_a_destination_that_has_the_results_is_remembered_while_another_waits(
    store: JobStore, monkeypatch: pytest.MonkeyPatch
):
    store.close()
    store = open_store(store.folder, "ONE", "TWO")
    store.accept("1", b"image", "A@b")
    store.predicted(next_job(store), RESULTS, 0)
    delivery = next_delivery(store, "ONE")

    def full(*_: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(store, "_run", full)
        with pytest.raises(sqlite3.OperationalError):
            store.delivered(delivery)
    assert store.is_delivered(delivery)
    assert len(store.result_files(delivery.job)) == len(RESULTS), "the other needs them"
    store.close()
    store = open_store(store.folder, "ONE", "TWO")
    assert store.next_delivery("ONE") is None
    store.delivered(next_delivery(store, "TWO"))
    assert states(store.folder) == {"done": 1}
    assert not list((store.folder / "results").iterdir())
    store.close()


def test_without_its_reserve_a_node_accepts_nothing(store: JobStore, monkeypatch: pytest.MonkeyPatch):
    assert (store.folder / "reserve").stat().st_blocks * 512 >= MIN_RESERVE_BYTES
    (store.folder / "reserve").unlink()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("cxr_mmdet.pacs.job_folder.write_durably", full)
        with pytest.raises(DiskError, match="No space left"):
            store.accept("1", b"image", "A@b")
    assert store.accept("1", b"image", "A@b")
    assert (store.folder / "reserve").exists()


def test_a_disk_that_is_really_full_is_worked_off(tmp_path: Path):
    """Fill a small file system with radiographs and with a stranger's file, and deliver what was accepted."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1536k", "tmpfs", str(disk)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a small file system")
    try:
        _fill_and_work_off(disk)
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def _fill_and_work_off(disk: Path) -> None:
    store = open_store(disk / "state")
    accepted = 0
    for _ in range(3):
        with contextlib.suppress(DiskError):
            while True:
                store.accept(f"1.{accepted}", os.urandom(40_000), "A@b")
                accepted += 1
        with contextlib.suppress(OSError), (disk / "stranger").open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        while (job := store.next_queued()) is not None:
            store.begin(job)
            store.predicted(job, {"1-report": bytes(20_000), "2-capture": bytes(20_000)}, 0)
        store.close()
        store = open_store(store.folder)
        while (delivery := store.next_delivery(ARCHIVE)) is not None:
            store.delivered(delivery)
        (disk / "stranger").unlink()
    assert accepted > 30
    assert states(store.folder) == {"done": accepted}
    store.close()
