"""The node's steps beside each other: what is predicted is reported on later, and no failure or stop loses it."""

from __future__ import annotations

import multiprocessing
import os
import sqlite3
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from node_builders import FINDINGS, HEADER, FakeDestination, open_store, predictor, radiograph_file, wait_for

from cxr_mmdet.dicom.report import structured_report
from cxr_mmdet.errors import DicomError
from cxr_mmdet.pacs import worker as worker_module
from cxr_mmdet.pacs.job_database import State, count_states, list_jobs, list_undelivered, open_queue, retry_failed
from cxr_mmdet.pacs.job_folder import file_stem
from cxr_mmdet.pacs.operation import AuditLog
from cxr_mmdet.pacs.reporting import Prediction, ReportOptions, Reports
from cxr_mmdet.pacs.sender import NotDeliveredError
from cxr_mmdet.pacs.worker import MAX_ATTEMPTS, MAX_BUSY_REFUSALS, MAX_REFUSALS, MAX_UNFINISHED, Courier, Worker

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from cxr_mmdet.pacs.job_database import Job
    from cxr_mmdet.pacs.job_store import JobStore

WORKERS = 3


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_module, "FIRST_DELAY_S", 0.001)
    monkeypatch.setattr(worker_module, "LONGEST_DELAY_S", 0.001)
    monkeypatch.setattr(worker_module, "POLL_S", 0.01)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[JobStore]:
    opened = open_store(tmp_path / "state")
    yield opened
    opened.close()


class Steps:
    """Stands for the model, for reporting and for the archive, and notes what each of them does to which radiograph."""

    def __init__(self, patch: Callable[[Any, str, Any], None]) -> None:
        self.predicted: list[str] = []
        self.reported: list[str] = []
        self.may_report = threading.Event()
        self.may_report.set()
        self.before_report: Callable[[str], None] = lambda name: None
        patch(worker_module, "predict_content", self._predict)
        patch(worker_module, "describe_findings", self._report)
        patch(worker_module, "identify", lambda header, radiograph: radiograph)

    def _predict(self, predictor: Any, content: bytes, name: str, options: ReportOptions) -> Prediction:
        self.predicted.append(name)
        return Prediction(HEADER, name, FINDINGS)  # type: ignore[arg-type]

    def _report(self, prediction: Any, options: ReportOptions, created: Any) -> Reports:
        assert self.may_report.wait(30)
        self.before_report(prediction.radiograph)
        self.reported.append(prediction.radiograph)
        return Reports(FINDINGS, structured_report(FINDINGS, HEADER, created=created), None)


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Steps:
    return Steps(monkeypatch.setattr)


def make_worker(store: JobStore, *destinations: FakeDestination) -> Worker:
    return Worker(store, None, destinations or [FakeDestination()], ReportOptions(), workers=WORKERS)  # type: ignore[arg-type]


@contextmanager
def run_worker(store: JobStore, steps: Steps, *destinations: FakeDestination) -> Iterator[Worker]:
    worker = make_worker(store, *destinations)
    worker.start()
    try:
        yield worker
    finally:
        steps.may_report.set()
        worker.stop()


def states(store: JobStore) -> dict[str, int]:
    with open_queue(store.folder) as queue:
        return {state: count for state, count in count_states(queue).items() if count}


def reasons(store: JobStore, state: State) -> dict[str, str]:
    with open_queue(store.folder) as queue:
        found = {job.sop_instance_uid: job.reason for job in list_jobs(queue, state)}
        waiting = [delivery for name, delivery in list_undelivered(queue) if name == state.value]
        return found | {delivery.job.sop_instance_uid: delivery.reason for delivery in waiting}


def fail_for(uid: str, error: Exception) -> Callable[[str], None]:
    def step(name: str) -> None:
        if name == uid:
            raise error

    return step


def test_others_are_predicted_while_one_is_reported_on_and_none_is_taken_twice(store: JobStore, steps: Steps):
    uids = [f"1.{number}" for number in range(6)]
    for uid in uids:
        store.accept(uid, b"image", "A@b")
    steps.may_report.clear()
    with run_worker(store, steps):
        wait_for(lambda: len(steps.predicted) == WORKERS)
        time.sleep(0.2)
        assert sorted(steps.predicted) == uids[:WORKERS], "images do not pile up in memory"
        assert states(store) == {"queued": 6}, "nothing has moved on before its results are on the disk"
        steps.may_report.set()
        wait_for(lambda: states(store) == {"done": 6})
    assert sorted(steps.predicted) == sorted(steps.reported) == uids


def test_a_stop_finishes_what_is_under_way_and_leaves_the_rest(store: JobStore, steps: Steps):
    uids = [f"1.{number}" for number in range(5)]
    for uid in uids:
        store.accept(uid, b"image", "A@b")
    steps.may_report.clear()
    with run_worker(store, steps) as worker:  # which stops it a second time, and that does no harm
        wait_for(lambda: len(steps.predicted) == WORKERS)
        stopping = threading.Thread(target=worker.stop)
        stopping.start()
        time.sleep(0.1)
        assert stopping.is_alive(), "it waits for the reports"
        steps.may_report.set()
        stopping.join(30)
        assert not stopping.is_alive()
    assert sorted(steps.reported) == sorted(steps.predicted) == uids[:WORKERS]
    found = states(store)
    assert found.pop("queued") == len(uids) - WORKERS
    assert sum(found.values()) == WORKERS, "reported, and perhaps sent"


def test_an_error_in_reporting_postpones_its_radiograph_alone_until_it_is_given_up(
    store: JobStore, steps: Steps, caplog: pytest.LogCaptureFixture
):
    for uid in ("1.1", "1.2"):
        store.accept(uid, b"image", "A@b")
    steps.before_report = fail_for("1.1", RuntimeError("no font"))
    with run_worker(store, steps):
        wait_for(lambda: states(store) == {"failed": 1, "done": 1})
    assert reasons(store, State.failed) == {"1.1": "RuntimeError: no font"}
    assert not any("no font" in message for message in caplog.messages), "what libraries say may quote a header"
    assert steps.predicted.count("1.1") == MAX_ATTEMPTS
    assert steps.predicted.count("1.2") == 1


def test_what_cannot_be_reported_on_fails_at_once(store: JobStore, steps: Steps):
    store.accept("1.1", b"image", "A@b")
    steps.before_report = fail_for("1.1", DicomError("the radiograph has no StudyInstanceUID"))
    with run_worker(store, steps):
        wait_for(lambda: states(store) == {"failed": 1})
    assert reasons(store, State.failed) == {"1.1": "the radiograph has no StudyInstanceUID"}
    assert steps.predicted == ["1.1"]


def test_a_queue_that_cannot_be_written_for_a_while_delays_reports(
    store: JobStore, steps: Steps, monkeypatch: pytest.MonkeyPatch
):
    store.accept("1.1", b"image", "A@b")
    run, failures = store._run, iter(range(6))

    def full(*statements: Any) -> None:
        if "unfinished + 1" not in statements[0][0] and next(failures, None) is not None:
            raise sqlite3.OperationalError("database or disk is full")
        run(*statements)

    monkeypatch.setattr(store, "_run", full)
    with run_worker(store, steps):
        wait_for(lambda: states(store) == {"done": 1})
    assert len(steps.predicted) == 4, "three times neither the results nor the delay could be noted"


def test_results_that_cannot_be_sent_fail_and_the_others_are_sent(
    store: JobStore, steps: Steps, monkeypatch: pytest.MonkeyPatch
):
    def send(paths: Sequence[Path]) -> None:
        if bad in paths[0].name:
            raise ValueError("no DICOM file")

    for uid in ("1.1", "1.2"):
        store.accept(uid, b"image", "A@b")
    bad = store.next_queued().file
    with run_worker(store, steps, FakeDestination(send)):
        wait_for(lambda: states(store) == {"failed": 1, "done": 1})
    assert reasons(store, State.failed) == {"1.1": "its results cannot be sent (ValueError): no DICOM file"}
    assert MAX_REFUSALS > 1


@pytest.mark.parametrize(("hanging_s", "crashes"), [(60, 0), (0, 1)])
def test_a_prediction_that_a_stop_abandons_is_no_crash_unless_it_hangs(
    store: JobStore, steps: Steps, monkeypatch: pytest.MonkeyPatch, hanging_s: float, crashes: int
):
    monkeypatch.setattr(worker_module, "HANGING_S", hanging_s)
    store.accept("1.1", b"image", "A@b")
    steps.may_report.clear()
    with run_worker(store, steps) as worker:
        wait_for(lambda: steps.predicted)
        begun = time.monotonic()
        worker.stop(0.2)
        assert time.monotonic() - begun < 5, "the stop waits no longer than it is told to"
        with open_queue(store.folder) as queue:
            assert [job.unfinished for job in list_jobs(queue, State.queued)] == [crashes]


def _run_until_death(folder: Path, killer: str, under_way: int) -> None:
    """Work off the queue in a process that dies while it reports on ``killer`` and so many in all are under way."""
    worker_module.POLL_S = 0.01
    steps = Steps(setattr)
    worker = make_worker(store := open_store(folder))

    def die(name: str) -> None:
        if name == killer:
            wait_for(lambda: len(steps.predicted) >= under_way)
            os._exit(9)
        elif under_way > 1:
            time.sleep(60)  # until the process dies

    steps.before_report = die
    worker.start()
    wait_for(lambda: set(states(store)) <= {"done", "failed"}, 30)
    worker.stop()
    os._exit(0)


def test_what_kills_the_process_is_given_up_and_those_beside_it_are_not(tmp_path: Path):
    store = open_store(tmp_path / "state")
    uids = [f"1.{number}" for number in range(5)]
    for uid in uids:
        store.accept(uid, b"image", "A@b")
    store.close()
    exits = []
    while not exits or exits[-1] != 0:
        assert len(exits) <= MAX_UNFINISHED, "it kills for ever"
        arguments = (store.folder, "1.1", 1 if exits else WORKERS)
        process = multiprocessing.get_context("fork").Process(target=_run_until_death, args=arguments)
        process.start()
        process.join(60)
        exits.append(process.exitcode)
        if len(exits) == 1:
            with open_queue(store.folder) as queue:
                begun = {job.sop_instance_uid for job in list_jobs(queue, State.queued) if job.unfinished}
            assert begun == {"1.0", "1.1", "1.2"}, "those beside it, so that the first death puts them under suspicion"
    assert exits == [9] * MAX_UNFINISHED + [0]
    assert states(store) == {"failed": 1, "done": 4}
    assert reasons(store, State.failed) == {"1.1": f"the node died {MAX_UNFINISHED} times while predicting it"}


@pytest.mark.parametrize("step", ["reported on", "results written"])
def test_a_kill_between_prediction_and_results_predicts_again(tmp_path: Path, step: str):
    store = open_store(tmp_path / "state")
    store.accept("1.1", b"image", "A@b")
    store.close()

    def work_and_die() -> None:
        steps = Steps(setattr)
        opened = open_store(store.folder)
        if step == "reported on":
            steps.before_report = lambda name: os._exit(9)
        else:
            opened._note = lambda *_: os._exit(9)  # type: ignore[method-assign]
        make_worker(opened).start()
        time.sleep(30)

    process = multiprocessing.get_context("fork").Process(target=work_and_die)
    process.start()
    process.join(60)
    assert process.exitcode == 9
    assert states(store) == {"queued": 1}
    store = open_store(store.folder)
    assert len(list((store.folder / "images").iterdir())) == 1
    assert not list((store.folder / "results").iterdir())
    assert store.next_queued().unfinished == 1
    store.close()


@pytest.mark.parametrize(
    ("method", "event"), [("predicted", "predicted"), ("delivered", "delivered"), ("fail", "given up")]
)
def test_nothing_is_noted_in_the_queue_before_it_is_in_the_audit_log(
    store: JobStore, steps: Steps, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, event: str
):
    store.audit = AuditLog(tmp_path / "audit.jsonl")
    note, audited = getattr(store, method), []

    def look(*arguments: Any) -> None:
        audited.append(f'"{event}"' in (tmp_path / "audit.jsonl").read_text())
        note(*arguments)

    monkeypatch.setattr(store, method, look)
    if method == "fail":
        steps.before_report = fail_for("1.1", DicomError("it has no patient"))
    store.accept("1.1", b"image", "A@b")
    with run_worker(store, steps):
        wait_for(lambda: states(store) == {"failed" if method == "fail" else "done": 1})
    assert audited == [True], "a kill or a full disk in between would lose the line"


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), PermissionError(13, "Permission denied")])
def test_an_image_that_cannot_be_read_waits_alone_with_its_reason(
    store: JobStore, steps: Steps, monkeypatch: pytest.MonkeyPatch, error: OSError
):
    for uid in ("1.1", "1.2"):
        store.accept(uid, b"image", "A@b")
    read, is_bad = store.read_image, threading.Event()
    is_bad.set()

    def read_image(job: Job) -> bytes:
        if is_bad.is_set() and job.sop_instance_uid == "1.1":
            raise error
        return read(job)

    monkeypatch.setattr(store, "read_image", read_image)
    with run_worker(store, steps):
        wait_for(lambda: states(store) == {"queued": 1, "done": 1})
        wait_for(lambda: reasons(store, State.queued) == {"1.1": f"its file cannot be read ({error})"})
        is_bad.clear()
        wait_for(lambda: states(store) == {"done": 2})


def test_results_that_cannot_be_read_wait_alone_with_their_reason(
    store: JobStore, steps: Steps, monkeypatch: pytest.MonkeyPatch
):
    def send(paths: Sequence[Path]) -> None:
        if bad in paths[0].name:
            raise OSError(5, "Input/output error")

    for uid in ("1.1", "1.2"):
        store.accept(uid, b"image", "A@b")
    bad = store.next_queued().file
    with run_worker(store, steps, FakeDestination(send)):
        wait_for(lambda: states(store) == {"predicted": 1, "done": 1})
        wait_for(lambda: "cannot be read ([Errno 5]" in reasons(store, State.predicted)["1.1"])


def test_results_that_are_gone_are_not_called_sent(store: JobStore, steps: Steps):
    store.accept("1.1", b"image", "A@b")
    job = store.next_queued()
    store.predicted(job, {"1-report": b"sr"}, 0)
    for path in store.result_files(job):
        path.unlink()
    with run_worker(store, steps):
        wait_for(lambda: states(store) == {"failed": 1})
    assert reasons(store, State.failed) == {"1.1": "its results are gone from the queue's folder"}


class FullArchive:
    """Has no room for some radiographs, or for any; notes what it is offered."""

    def __init__(self, bad: set[str]) -> None:
        self.bad = bad
        self.offered: list[str] = []
        self.taken: list[str] = []

    def send(self, paths: Sequence[Path]) -> None:
        stem = paths[0].name.split("-")[0]
        self.offered.append(stem)
        if stem in self.bad:
            raise NotDeliveredError("no room", refused=False, busy=True)
        self.taken.append(stem)


def test_a_destination_that_is_down_delays_neither_another_nor_prediction(store: JobStore, steps: Steps):
    """The dead one hangs within its first delivery, as a host that drops packets does."""
    store.close()
    store = open_store(store.folder, "DEAD", "ALIVE")
    taken: list[str] = []
    hangs, is_back = threading.Event(), threading.Event()

    def hang(paths: Sequence[Path]) -> None:
        hangs.set()
        assert is_back.wait(60)

    def take(paths: Sequence[Path]) -> None:
        taken.append(paths[0].name.split("-")[0])

    uids = [f"1.{number}" for number in range(5)]
    for uid in uids:
        store.accept(uid, b"image", "A@b")
    with run_worker(store, steps, FakeDestination(hang, "DEAD"), FakeDestination(take, "ALIVE")):
        wait_for(lambda: len(taken) == len(uids) and hangs.is_set())
        assert sorted(steps.reported) == uids
        assert states(store) == {"predicted": len(uids)}
        is_back.set()
        wait_for(lambda: states(store) == {"done": len(uids)})
    assert sorted(taken) == sorted(map(file_stem, uids)), "each once"
    store.close()


def test_while_a_destination_cannot_be_reached_what_waits_for_it_is_not_tried_one_by_one(
    store: JobStore, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(worker_module, "delay_after", lambda failures: 60.0)
    tried: list[str] = []

    def send(paths: Sequence[Path]) -> None:
        tried.append(paths[0].name)
        raise NotDeliveredError("cannot be reached", unreachable=True)

    for uid in ("1.1", "1.2"):
        store.accept(uid, b"image", "A@b")
        store.predicted(store.next_queued(), {"1-report": b"sr"}, 0)
    courier = Courier(store, FakeDestination(send))
    assert courier.deliver_next()
    assert not courier.deliver_next()
    assert tried == [f"{file_stem('1.1')}-1-report.dcm"]
    assert reasons(store, State.predicted)["1.1"] == "cannot be reached"


def test_a_refusal_by_one_destination_leaves_the_other_in_peace_and_is_retried_there_alone(
    store: JobStore, steps: Steps
):
    store.close()
    store = open_store(store.folder, "PICKY", "OTHER")
    offered = {"PICKY": 0, "OTHER": 0}
    refuses = threading.Event()
    refuses.set()

    def send(name: str) -> None:
        offered[name] += 1
        if name == "PICKY" and refuses.is_set():
            raise NotDeliveredError("no reports here", refused=True)

    destinations = [FakeDestination(lambda paths, name=name: send(name), name) for name in offered]
    store.accept("1.1", radiograph_file("1.1"), "A@b")
    with run_worker(store, steps, *destinations):
        wait_for(lambda: states(store) == {"failed": 1})
        assert offered == {"PICKY": MAX_REFUSALS, "OTHER": 1}
        assert reasons(store, State.failed) == {"1.1": "no reports here"}
        refuses.clear()
        # Sent again by its sender, it is neither predicted nor delivered where it is already.
        assert store.accept("1.1", radiograph_file("1.1"), "A@b")
        wait_for(lambda: states(store) == {"done": 1})
    assert offered == {"PICKY": MAX_REFUSALS + 1, "OTHER": 1}
    assert steps.predicted == ["1.1"]
    store.close()


def test_one_object_for_which_there_is_no_room_fails_and_can_be_retried(
    store: JobStore, steps: Steps, monkeypatch: pytest.MonkeyPatch
):
    bad = file_stem("1.0")
    archive = FullArchive({bad})
    with run_worker(store, steps, FakeDestination(archive.send)) as worker:
        for uid in ("1.1", "1.0"):
            store.accept(uid, b"image", "A@b")
            worker.wake()
            wait_for(lambda uid=uid: file_stem(uid) in archive.offered)
        wait_for(lambda: states(store) == {"failed": 1, "done": 1})
        assert reasons(store, State.failed) == {"1.0": "no room"}
        assert archive.offered.count(bad) == MAX_BUSY_REFUSALS
        archive.bad.clear()
        with open_queue(store.folder) as queue:
            assert retry_failed(store.folder, queue) == 1
        wait_for(lambda: states(store) == {"done": 2})


def test_an_archive_without_room_for_anything_is_waited_for(
    store: JobStore, steps: Steps, monkeypatch: pytest.MonkeyPatch
):
    uids = [f"1.{number}" for number in range(3)]
    archive = FullArchive({file_stem(uid) for uid in uids})
    for uid in uids:
        store.accept(uid, b"image", "A@b")
    with run_worker(store, steps, FakeDestination(archive.send)):
        wait_for(lambda: len(archive.offered) > 2 * len(uids) * MAX_BUSY_REFUSALS)
        assert states(store) == {"predicted": len(uids)}
        archive.bad.clear()
        wait_for(lambda: states(store) == {"done": len(uids)})


def test_what_was_delivered_on_a_full_disk_is_not_sent_again(
    store: JobStore, steps: Steps, monkeypatch: pytest.MonkeyPatch
):
    archive = FullArchive(set())
    run, failures = store._run, iter(range(6))

    def full(*statements: Any) -> None:
        if "'delivered'" in statements[0][0] and next(failures, None) is not None:
            raise sqlite3.OperationalError("database or disk is full")
        run(*statements)

    monkeypatch.setattr(store, "_run", full)
    store.accept("1.1", b"image", "A@b")
    with run_worker(store, steps, FakeDestination(archive.send)):
        wait_for(lambda: states(store) == {"done": 1})
    assert len(archive.offered) == 1
    assert not list((store.folder / "results").iterdir())


def test_a_radiograph_is_parsed_and_decoded_once_to_be_predicted_and_identified(
    store: JobStore, monkeypatch: pytest.MonkeyPatch, reads: Counter[str]
):
    store.accept("1", radiograph_file("1"), "A@b")
    worker = Worker(store, predictor(), [FakeDestination()], ReportOptions(presentation=True), workers=1)
    reads.clear()  # the model may just have been exported, and compared on radiographs
    assert worker.predict_next()
    assert states(store) == {"predicted": 1}
    assert reads == {"parsed": 1, "decoded": 1}
