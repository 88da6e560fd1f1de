"""SIGKILL at random moments of accepting, predicting and sending, with the queue checked after each of them.

The suite kills 12 times; ``CXR_QUEUE_KILLS=100`` is the long version.
"""

from __future__ import annotations

import copy
import multiprocessing
import os
import random
import signal
import time
from typing import TYPE_CHECKING

import pytest
from node_builders import ARCHIVE, FINDINGS, HEADER, FakeDestination, open_store, radiograph_file

from cxr_mmdet.dicom.report import structured_report, to_bytes
from cxr_mmdet.pacs import worker as worker_module
from cxr_mmdet.pacs.job_database import State, open_queue
from cxr_mmdet.pacs.job_folder import file_stem, list_quarantine
from cxr_mmdet.pacs.reporting import Prediction, ReportOptions, Reports
from cxr_mmdet.pacs.sender import NotDeliveredError
from cxr_mmdet.pacs.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Sequence
    from multiprocessing.synchronize import Event
    from pathlib import Path

    from cxr_mmdet.pacs.job_database import Delivery

DOWN = "DOWN"
HAS = "SELECT file FROM jobs JOIN deliveries ON number = job WHERE deliveries.state = 'delivered'"
KILLS = int(os.environ.get("CXR_QUEUE_KILLS", "12"))
LONGEST_LIFE_S = 0.25


def _note(path: Path, line: str) -> None:
    handle = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    os.write(handle, f"{line}\n".encode())
    os.close(handle)


def _lines(path: Path) -> set[str]:
    return set(path.read_text().splitlines()) if path.exists() else set()


def _arrive(folder: Path, paths: Sequence[Path]) -> None:
    _note(folder.parent / "arrived", paths[0].name.split("-")[0])


def _hang_up(paths: Sequence[Path]) -> None:
    raise NotDeliveredError("cannot be reached", unreachable=True)


def _describe(prediction: Prediction, options: ReportOptions, created: object) -> Reports:
    return Reports(FINDINGS, structured_report(FINDINGS, prediction.dataset, created=None), None)


def _predict(predictor: object, content: bytes, name: str, options: ReportOptions) -> Prediction:
    header = copy.deepcopy(HEADER)
    header.SOPInstanceUID = name
    return Prediction(header, name, FINDINGS)  # type: ignore[arg-type]


def _live(folder: Path, life: int, ready: Event) -> None:
    """Accept, predict and send until killed; what was acknowledged and what arrived is noted beside the folder."""
    worker_module.POLL_S = 0.005
    worker_module.MAX_UNFINISHED = 10_000  # the kills are not the radiographs' fault
    worker_module.predict_content = _predict
    worker_module.describe_findings = _describe
    worker_module.identify = lambda header, radiograph: radiograph
    ready.set()  # the start, which puts right what the last kill left, may be killed too
    store = open_store(folder, ARCHIVE, DOWN)
    delivered = store.delivered

    def deliver(delivery: Delivery) -> None:
        delivered(delivery)
        _note(folder.parent / "arrived", f"noted {delivery.job.file}")

    store.delivered = deliver  # type: ignore[method-assign]
    destinations = [FakeDestination(lambda paths: _arrive(folder, paths)), FakeDestination(_hang_up, DOWN)]
    worker = Worker(store, None, destinations, ReportOptions(), workers=2)  # type: ignore[arg-type]
    worker.start()
    for number in range(10_000):
        uid = f"1.{life}.{number}"
        store.accept(uid, radiograph_file(uid), "A@b")
        _note(folder.parent / "acknowledged", uid)
        worker.wake()


def _check(folder: Path, *, remembers: bool) -> int:
    """Return how many acknowledged radiographs are looked for and found, in the database or among what arrived."""
    open_store(folder, ARCHIVE, DOWN).close()
    acknowledged, arrived = _lines(folder.parent / "acknowledged"), _lines(folder.parent / "arrived")
    with open_queue(folder) as queue:
        assert queue.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
        has = {
            row["file"]
            for row in queue.execute(
                "SELECT * FROM jobs JOIN deliveries ON number = job WHERE deliveries.state = 'delivered'"
            )
        }
        rows = {row["sop_instance_uid"]: State(row["state"]) for row in queue.execute("SELECT * FROM jobs")}
        reasons = dict(queue.execute("SELECT sop_instance_uid, reason FROM jobs").fetchall())
    images = {path.stem: path for path in (folder / "images").iterdir()}
    results = {path.stem.split("-")[0]: path for path in (folder / "results").iterdir()}
    for uid in acknowledged:
        stem = file_stem(uid)
        if uid not in rows:
            assert not remembers, uid
            assert stem in arrived, uid
        elif rows[uid] is State.queued:
            assert images[stem].read_bytes() == radiograph_file(uid)
        else:
            assert rows[uid] is State.predicted, reasons[uid]  # not done: a destination waits
            assert results[stem].stat().st_size > 1000
            assert stem in arrived or stem not in has, uid
    assert not list_quarantine(folder)
    return len(acknowledged)


def _drain(folder: Path) -> None:
    """Predict what waits, and deliver it once the destination that was down is back."""
    store = open_store(folder, ARCHIVE, DOWN)
    while (job := store.next_queued()) is not None:
        store.predicted(job, {"1-report": b"sr"}, 0)
    for name, log in ((ARCHIVE, "arrived"), (DOWN, "arrived later")):
        while (delivery := store.next_delivery(name)) is not None:
            _note(folder.parent / log, delivery.job.file)
            store.delivered(delivery)
    store.close()
    assert not any(list((folder / part).iterdir()) for part in ("images", "results"))


@pytest.mark.parametrize("database", ["kept", "lost"])
def test_kills_at_random_moments_lose_nothing_that_was_acknowledged(tmp_path: Path, database: str):
    folder = tmp_path / "state"
    moments = random.Random(5)
    to_bytes(structured_report(FINDINGS, HEADER))  # imports what each life would import anew
    context = multiprocessing.get_context("fork")
    arrived = tmp_path / "arrived"
    for life in range(10 * KILLS):
        # A slow machine needs longer lives until a delivery is noted.
        if life >= KILLS and (database == "lost" or (arrived.exists() and "noted " in arrived.read_text())):
            break
        ready = context.Event()
        process = context.Process(target=_live, args=(folder, life, ready))
        process.start()
        assert ready.wait(60)
        time.sleep(moments.uniform(0, LONGEST_LIFE_S * (1 + life // KILLS)))
        os.kill(process.pid, signal.SIGKILL)
        process.join(60)
        assert process.exitcode == -signal.SIGKILL
        if database == "lost" and life % 3 == 1 and (folder / "queue.sqlite").exists():
            _lose(folder, empty=life % 2 == 0)
        _check(folder, remembers=database == "kept")
    assert _check(folder, remembers=database == "kept") > 0
    _drain(folder)
    expected = {file_stem(uid) for uid in _lines(tmp_path / "acknowledged")}
    assert expected <= _lines(tmp_path / "arrived") & _lines(tmp_path / "arrived later")
    if database == "kept":
        noted: set[str] = set()
        for line in arrived.read_text().splitlines():
            assert line not in noted, "delivered again"
            noted.add(line.removeprefix("noted ")) if line.startswith("noted ") else None
        assert noted


def _lose(folder: Path, *, empty: bool) -> None:
    for path in folder.glob("queue.sqlite*"):
        path.unlink()
    if empty:
        (folder / "queue.sqlite").touch()
