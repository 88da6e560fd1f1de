"""Radiographs of an archive into the queue: each once, whatever fails and whoever is killed."""

from __future__ import annotations

import datetime
import multiprocessing
import os
import signal
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from node_builders import FINDINGS, FakeDestination, open_store, radiograph_file, wait_for
from orthanc_server import NO_DICOMWEB, run_orthanc
from pydicom.uid import ComprehensiveSRStorage

from cxr_mmdet.pacs import dicomweb
from cxr_mmdet.pacs import worker as worker_module
from cxr_mmdet.pacs.dicomweb import Archive, DicomwebError, Poller
from cxr_mmdet.pacs.job_database import count_states, open_queue
from cxr_mmdet.pacs.node import DicomNode, NodeOptions
from cxr_mmdet.pacs.reporting import Prediction, ReportOptions, Reports
from cxr_mmdet.pacs.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from cxr_mmdet.pacs.job_store import JobStore

RADIOGRAPHS = 200
TODAY = datetime.date.today()


class FakeArchive(Archive):
    """An archive with one series per radiograph; it notes what it is asked, and fails where it is told to."""

    def __init__(self, *uids: str) -> None:
        self.url = "https://archive.example/dicom-web"
        self.uids = list(uids)
        self.asked: list[str] = []
        self.failing: dict[str, DicomwebError] = {}

    def search_series(self, study: str | None = None, dates: str = "") -> list[tuple[str, str, int]]:
        self.asked.append(dates)
        return [("1.1", f"{uid}.1", 1) for uid in self.uids]

    def search_radiographs(self, study: str, series: str) -> list[str]:
        self.asked.append(series)
        return [series.removesuffix(".1")]

    def retrieve(self, study: str, series: str, instance: str) -> bytes:
        self.asked.append(instance)
        if instance in self.failing:
            raise self.failing[instance]
        return radiograph_file(instance)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[JobStore]:
    store = open_store(tmp_path / "state")
    yield store
    store.close()


def _search(poller: Poller, store: JobStore) -> list[str]:
    """Return what one search asks of the archive."""
    poller.archive.asked.clear()  # type: ignore[attr-defined]
    poller.search(store, lambda: None, threading.Event())
    return poller.archive.asked  # type: ignore[attr-defined]


def test_each_radiograph_is_retrieved_once_also_by_another_process(store: JobStore):
    archive = FakeArchive("1.2", "1.3")
    store.accept("1.3", radiograph_file("1.3"), "MODALITY@host")  # it came by C-STORE
    since = f"{TODAY - datetime.timedelta(2):%Y%m%d}-"
    poller = Poller(archive)
    assert _search(poller, store) == [since, "1.2.1", "1.2", "1.3.1"]
    assert store.next_queued().sender == "MODALITY@host"
    assert _search(poller, store) == [since]
    archive.uids.append("1.4")
    assert _search(poller, store) == [since, "1.4.1", "1.4"]
    assert _search(Poller(archive), store) == [since, "1.2.1", "1.3.1", "1.4.1"]


def test_a_search_begins_where_the_last_complete_one_ended(store: JobStore, monkeypatch: pytest.MonkeyPatch):
    class Later(datetime.date):
        @classmethod
        def today(cls) -> datetime.date:
            return TODAY + datetime.timedelta(9)

    archive = FakeArchive("1.2")
    archive.failing["1.2"] = DicomwebError("503", busy=True, status=503)
    _search(Poller(archive), store)
    monkeypatch.setattr("cxr_mmdet.pacs.dicomweb.datetime.date", Later)
    for _ in range(2):
        assert _search(Poller(archive, days=1), store)[0] == f"{TODAY - datetime.timedelta(1):%Y%m%d}-"
    archive.failing.clear()
    _search(Poller(archive), store)
    assert store.is_known("1.2")
    assert _search(Poller(archive, days=0), store)[0] == f"{TODAY + datetime.timedelta(9):%Y%m%d}-"


def test_one_that_cannot_be_retrieved_keeps_none_waiting_and_is_given_up(
    store: JobStore, caplog: pytest.LogCaptureFixture
):
    archive = FakeArchive("1.2")
    archive.failing["1.2"] = DicomwebError("status 404", refused=True, status=404)
    poller = Poller(archive)
    for number in range(dicomweb.MAX_FAILURES):
        assert "1.2" in _search(poller, store)
        assert "1.2" in _search(poller, store), "nothing else was retrieved: it may be the archive's fault"
        archive.uids.append(f"1.3.{number}")
    assert "1.2" in _search(poller, store)
    assert "1.2: given up" in caplog.text
    assert "1.2" not in _search(poller, store)
    assert store.count_queued() == dicomweb.MAX_FAILURES


@pytest.mark.parametrize(
    ("error", "asked"),
    [
        (DicomwebError("cannot be reached"), 1),
        (DicomwebError("wrong password", refused=True, status=401), 1),
        (DicomwebError("WADO-RS is switched off", refused=True, status=404), 3),
    ],
)
def test_an_archive_that_gives_nothing_is_not_asked_for_everything(store: JobStore, error: DicomwebError, asked: int):
    archive = FakeArchive(*(f"1.{number}" for number in range(9)))
    archive.failing = dict.fromkeys(archive.uids, error)
    with pytest.raises(DicomwebError, match=str(error)):
        _search(Poller(archive), store)
    assert len(set(archive.asked) & set(archive.uids)) == asked


def test_the_archive_keeps_what_the_queue_cannot_predict_yet(store: JobStore, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(dicomweb, "MAX_AHEAD", 2)
    stop = threading.Event()
    archive = FakeArchive("1.2", "1.3", "1.4")
    searching = threading.Thread(target=Poller(archive).search, args=(store, lambda: None, stop))
    searching.start()
    searching.join(0.5)
    assert searching.is_alive()
    assert store.count_queued() == 2
    stop.set()
    searching.join(5)
    assert not store.is_known("1.4")


def test_what_goes_wrong_ends_a_search_but_not_the_loop(
    store: JobStore, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(dicomweb, "LONGEST_DELAY_S", 0.01)
    errors: list[Any] = [DicomwebError("cannot be reached"), RuntimeError("unforeseen")]
    stop = threading.Event()

    class Moody(FakeArchive):
        def search_series(self, study: str | None = None, dates: str = "") -> list[tuple[str, str, int]]:
            if errors:
                raise errors.pop(0)
            stop.set()
            return []

    Poller(Moody(), interval_s=0).run(store, lambda: None, stop)
    assert "cannot be reached; searching again in" in caplog.text
    assert "RuntimeError: unforeseen" in caplog.text


def test_a_node_fetches_predicts_and_delivers_until_it_is_stopped(tmp_path: Path):
    archive = FakeArchive("1.2")
    delivered: list[Any] = []
    node = DicomNode(
        tmp_path / "state",
        FakePredictor(),  # type: ignore[arg-type]
        [FakeDestination(delivered.append)],
        NodeOptions("CXR", port=0),
        ReportOptions(capture=False),
        pollers=[Poller(archive, interval_s=0.05)],
    )
    node.start()
    wait_for(lambda: delivered)
    archive.uids.append("1.3")
    wait_for(lambda: len(delivered) == 2)
    node.stop()
    wait_for(lambda: "poll" not in [thread.name for thread in threading.enumerate()])


class FakePredictor:
    workers = 3
    score_threshold = 0.3

    def predict_radiographs(self, radiographs: list[Any], thresholds: Any) -> list[Any]:
        return [FINDINGS for _ in radiographs]


def _describe(prediction: Prediction, *_: Any) -> Reports:
    """Return a report that costs less than a real one."""
    report = prediction.dataset
    report.SOPInstanceUID, report.SeriesInstanceUID = (f"{report.SOPInstanceUID}.{number}" for number in (9, 8))
    report.SOPClassUID, report.Modality = ComprehensiveSRStorage, "SR"
    return Reports(FINDINGS, report, None)


def _live(folder: Path, url: str) -> None:
    """Run the queue of a node that fetches from an archive and stores there, until killed."""
    worker_module.describe_findings = _describe
    store = open_store(folder, url)
    worker = Worker(store, FakePredictor(), [FakeDestination(Archive(url).store, url)], ReportOptions(), workers=2)  # type: ignore[arg-type]
    worker.start()
    Poller(Archive(url), interval_s=0.5).run(store, worker.wake, threading.Event())


@pytest.mark.skipif(bool(NO_DICOMWEB), reason=NO_DICOMWEB)
@pytest.mark.slow
def test_two_kills_leave_one_result_per_radiograph_in_the_archive(tmp_path: Path):
    uids = [f"1.2.{number}" for number in range(1, RADIOGRAPHS + 1)]
    with run_orthanc(tmp_path / "archive") as orthanc:
        date = f"{TODAY:%Y%m%d}"
        for uid in uids:
            own = {"StudyInstanceUID": f"{uid}.1", "SeriesInstanceUID": f"{uid}.2", "StudyDate": date}
            orthanc.put(radiograph_file(uid, **own))
        context = multiprocessing.get_context("fork")
        for results in (RADIOGRAPHS // 4, RADIOGRAPHS // 2, RADIOGRAPHS):
            process = context.Process(target=_live, args=(tmp_path / "state", orthanc.dicomweb))
            process.start()
            wait_for(lambda least=results: orthanc.count() >= RADIOGRAPHS + least)
            time.sleep(1.2 if results == RADIOGRAPHS else 0)  # two more searches find nothing
            os.kill(process.pid, signal.SIGKILL)
            process.join(60)
        stored = [entry["MainDicomTags"]["SOPInstanceUID"] for entry in orthanc.instances()]
    assert Counter(stored) == Counter([*uids, *(f"{uid}.9" for uid in uids)])
    with open_queue(tmp_path / "state") as queue:
        assert count_states(queue)["done"] == RADIOGRAPHS
