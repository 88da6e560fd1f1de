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
from node_builders import FINDINGS, HEADER, radiograph_file

from cxr_mmdet.dicom.report import structured_report, to_bytes
from cxr_mmdet.pacs import worker as worker_module
from cxr_mmdet.pacs.job_database import State, open_queue
from cxr_mmdet.pacs.job_folder import file_stem, list_quarantine
from cxr_mmdet.pacs.job_store import JobStore
from cxr_mmdet.pacs.reporting import Prediction, ReportOptions, Reports
from cxr_mmdet.pacs.sender import Destination
from cxr_mmdet.pacs.worker import Worker

if TYPE_CHECKING:
    from multiprocessing.synchronize import Event
    from pathlib import Path

KILLS = int(os.environ.get("CXR_QUEUE_KILLS", "12"))
LONGEST_LIFE_S = 0.25


def _note(path: Path, line: str) -> None:
    handle = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    os.write(handle, f"{line}\n".encode())
    os.close(handle)


def _lines(path: Path) -> set[str]:
    return set(path.read_text().split()) if path.exists() else set()


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
    worker_module.send = lambda paths, *_: _note(folder.parent / "arrived", paths[0].name.split("-")[0])
    ready.set()  # the start, which puts right what the last kill left, may be killed too
    store = JobStore(folder)
    worker = Worker(store, None, Destination("A", "127.0.0.1", 9), "CXR", ReportOptions(), workers=2)  # type: ignore[arg-type]
    worker.start()
    for number in range(10_000):
        uid = f"1.{life}.{number}"
        store.accept(uid, radiograph_file(uid), "A@b")
        _note(folder.parent / "acknowledged", uid)
        worker.wake()


def _check(folder: Path, *, remembers: bool) -> int:
    """Return how many acknowledged radiographs are looked for and found, in the database or among what arrived."""
    JobStore(folder).close()
    acknowledged, arrived = _lines(folder.parent / "acknowledged"), _lines(folder.parent / "arrived")
    with open_queue(folder) as queue:
        assert queue.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
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
        elif rows[uid] is State.predicted:
            assert results[stem].stat().st_size > 1000
        else:
            assert rows[uid] is State.done, reasons[uid]
            assert stem in arrived, uid
    assert not list_quarantine(folder)
    return len(acknowledged)


def _drain(folder: Path) -> None:
    store = JobStore(folder)
    while (job := store.next(State.queued)) is not None:
        store.predicted(job, {"1-report": b"sr"}, 0)
    while (job := store.next(State.predicted)) is not None:
        _note(folder.parent / "arrived", job.file)
        store.sent(job)
    store.close()
    assert not any(list((folder / part).iterdir()) for part in ("images", "results"))


@pytest.mark.parametrize("database", ["kept", "lost"])
def test_kills_at_random_moments_lose_nothing_that_was_acknowledged(tmp_path: Path, database: str):
    folder = tmp_path / "state"
    moments = random.Random(5)
    to_bytes(structured_report(FINDINGS, HEADER))  # imports what each life would import anew
    context = multiprocessing.get_context("fork")
    for life in range(KILLS):
        ready = context.Event()
        process = context.Process(target=_live, args=(folder, life, ready))
        process.start()
        assert ready.wait(60)
        time.sleep(moments.uniform(0, LONGEST_LIFE_S))
        os.kill(process.pid, signal.SIGKILL)
        process.join(60)
        assert process.exitcode == -signal.SIGKILL
        if database == "lost" and life % 3 == 1 and (folder / "queue.sqlite").exists():
            _lose(folder, empty=life % 2 == 0)
        _check(folder, remembers=database == "kept")
    assert _check(folder, remembers=database == "kept") > 0
    _drain(folder)
    arrived = _lines(tmp_path / "arrived")
    assert all(file_stem(uid) in arrived for uid in _lines(tmp_path / "acknowledged"))


def _lose(folder: Path, *, empty: bool) -> None:
    for path in folder.glob("queue.sqlite*"):
        path.unlink()
    if empty:
        (folder / "queue.sqlite").touch()
