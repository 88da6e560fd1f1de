"""Health, metrics, logs and the audit trail of a running node, and that no patient is named in any of them."""

from __future__ import annotations

import json
import logging
import os
import stat
import urllib.error
import urllib.request
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
from node_builders import THRESHOLD, FakeDestination, open_store, predictor, wait_for, write_phantoms
from pydicom import dcmread
from pynetdicom import AE

from cxr_mmdet.errors import UsageError
from cxr_mmdet.pacs.job_folder import DiskError
from cxr_mmdet.pacs.job_store import JobStore
from cxr_mmdet.pacs.node import DicomNode, NodeOptions
from cxr_mmdet.pacs.operation import AuditLog, JsonFormatter, StatusServer, TextFormatter
from cxr_mmdet.pacs.reporting import ReportOptions
from cxr_mmdet.pacs.sender import NotDeliveredError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SECRETS = ("Zebedee", "SECRET-ID", "SECRET-ACCESSION")


def get(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


@pytest.fixture
def server() -> Iterator[StatusServer]:
    opened = StatusServer("127.0.0.1:0")
    yield opened
    opened.close()


def down(paths: object) -> None:
    raise NotDeliveredError("cannot be reached", unreachable=True)


def events(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_node_says_how_it_is_and_what_it_did_without_naming_a_patient(
    tmp_path: Path, server: StatusServer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    node_log = logging.getLogger("cxr_mmdet.node")
    monkeypatch.setattr(node_log, "disabled", False)
    monkeypatch.setattr(node_log, "propagate", True)
    caplog.set_level(logging.INFO)
    assert get(server.port, "/readyz") == (503, '{"ok": false, "reasons": ["the model is being loaded"]}\n')
    good, bad = (dcmread(path) for path in write_phantoms(tmp_path / "in", 2))
    for dataset in (good, bad):
        dataset.PatientName, dataset.PatientID, dataset.AccessionNumber = f"{SECRETS[0]}^A", *SECRETS[1:]
    bad.PixelData = bad.PixelData[:100]
    audit = tmp_path / "log" / "audit.jsonl"
    node = DicomNode(
        tmp_path / "state",
        predictor(),
        [FakeDestination(name="pacs"), FakeDestination(down, "dead")],
        NodeOptions("CXR", port=0),
        ReportOptions(THRESHOLD, class_thresholds={"Cardiomegaly": 0.7}),
        audit=AuditLog(audit),
    )
    node.start()
    node.report_on(server)
    try:
        assert get(server.port, "/healthz")[0] == get(server.port, "/readyz")[0] == 200
        entity = AE("MODALITY")
        entity.add_requested_context(good.SOPClassUID, good.file_meta.TransferSyntaxUID)
        association = entity.associate("127.0.0.1", node.port, ae_title="CXR")
        assert [association.send_c_store(dataset).Status for dataset in (good, bad)] == [0, 0]
        association.release()
        wait_for(lambda: audit.read_text().count('"given up"') == audit.read_text().count('"delivered"') == 1)
        wait_for(lambda: 'state="failed"} 1.0' in get(server.port, "/metrics")[1])
        metrics = get(server.port, "/metrics")[1]
    finally:
        node.stop()
    assert 'cxr_node_deliveries{destination="pacs",state="delivered"} 1.0' in metrics
    assert 'cxr_node_deliveries{destination="dead",state="waiting"} 1.0' in metrics
    assert 'cxr_node_oldest_seconds{state="predicted"}' in metrics
    assert 'cxr_node_failures_total{kind="DicomError",step="predict"}' in metrics
    assert 'cxr_node_step_seconds_count{destination="pacs",step="send"}' in metrics
    received, predicted, delivered = (
        next(event for event in events(audit) if event["event"] == kind)
        for kind in ("received", "predicted", "delivered")
    )
    assert (received["sop_instance_uid"], received["sender"]) == (good.SOPInstanceUID, "MODALITY@127.0.0.1")
    assert predicted["model"] == predictor().model_id
    assert (predicted["score_threshold"], predicted["class_thresholds"]) == (THRESHOLD, {"Cardiomegaly": 0.7})
    assert sum(predicted["findings"].values()) > 0
    assert len(predicted["results"]) == 2
    assert (delivered["sop_instance_uid"], delivered["destination"]) == (good.SOPInstanceUID, "pacs")
    assert stat.S_IMODE(audit.stat().st_mode) == 0o600
    lines = [JsonFormatter().format(record) for record in caplog.records]
    assert any("sent the findings" in json.loads(line)["message"] for line in lines)
    for text in (metrics, audit.read_text(), *lines):
        assert not any(secret in text for secret in (*SECRETS, str(good.StudyInstanceUID)))


def test_errors_of_libraries_are_logged_without_what_they_quote():
    try:
        raise ValueError(f"invalid value for PN: {SECRETS[0]}")
    except ValueError as error:
        record = logging.getLogger("cxr_mmdet.node").makeRecord(
            "cxr_mmdet.node",
            logging.ERROR,
            __file__,
            1,
            "predicting %s failed",
            ("1.2",),
            (ValueError, error, error.__traceback__),
        )
    line = json.loads(JsonFormatter().format(record))
    assert (line["message"], line["exception"]) == ("predicting 1.2 failed", "ValueError")
    assert line["at"][0].endswith("test_errors_of_libraries_are_logged_without_what_they_quote")
    text = TextFormatter().format(record)
    assert "predicting 1.2 failed" in text
    assert "ValueError at" in text
    assert SECRETS[0] not in text
    other = logging.LogRecord("pydicom", logging.WARNING, __file__, 1, "bad value %s", (SECRETS[0],), None)
    assert json.loads(JsonFormatter().format(other))["message"] == "bad value %s"


def test_a_node_that_cannot_write_is_not_ready(tmp_path: Path, server: StatusServer, monkeypatch: pytest.MonkeyPatch):
    audit = AuditLog(tmp_path / "audit.jsonl")
    node = DicomNode(
        tmp_path / "state", predictor(), [FakeDestination()], NodeOptions("CXR", port=0), ReportOptions(), audit=audit
    )
    node.start()
    node.report_on(server)
    try:
        with monkeypatch.context() as patch:
            patch.setattr("cxr_mmdet.pacs.job_store.write_durably", _full)
            status, text = get(server.port, "/readyz")
            assert status == 503
            assert "cannot be used for the queue" in json.loads(text)["reasons"][0]
        with monkeypatch.context() as patch:
            patch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_blocks=1 << 20, f_bavail=12, f_frsize=4096))
            status, text = get(server.port, "/readyz")
            assert status == 503, "a byte fits, a radiograph does not"
            assert "only 48 KiB are free" in json.loads(text)["reasons"][0]
        audit.problem = "the audit log cannot be written"
        assert json.loads(get(server.port, "/readyz")[1])["reasons"] == ["the audit log cannot be written"]
        assert get(server.port, "/elsewhere")[0] == 404
    finally:
        node.stop()
    assert get(server.port, "/healthz")[0] == 503


def _full(*_: object) -> None:
    raise OSError(28, "No space left on device")


def test_what_cannot_be_written_down_is_not_accepted_and_no_line_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    audit = AuditLog(tmp_path / "audit.jsonl")
    open_store(tmp_path / "state").close()
    store = JobStore(tmp_path / "state", ["ARCHIVE"], audit)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", _full)
        patch.setattr("cxr_mmdet.pacs.job_store.write_durably", lambda path, content: path.write_bytes(content))
        with pytest.raises(DiskError, match="the audit log cannot be written"):
            store.accept("1.2", b"image", "A@b")
    assert not store.accept("1.2", b"image", "A@b"), "its sender sends it again"
    store.close()
    assert audit.problem == ""
    assert {event["is_new"] for event in events(tmp_path / "audit.jsonl")} == {True, False}


def test_an_address_or_a_file_that_cannot_be_used(tmp_path: Path, server: StatusServer):
    with pytest.raises(UsageError, match=f"http, 127.0.0.1:{server.port}: cannot be listened at"):
        StatusServer(f"127.0.0.1:{server.port}")
    with pytest.raises(UsageError, match="the audit log cannot be written"):
        AuditLog(tmp_path)
