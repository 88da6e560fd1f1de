"""The DICOM node among programs of other people: dcmtk sends, Orthanc receives, and the node is killed in between."""

from __future__ import annotations

import datetime
import os
import signal
import socket
import subprocess
import sys
import threading
from collections import Counter
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import imagecodecs
import numpy as np
import orthanc_server
import pytest
from detectors import bundle_of
from node_builders import THRESHOLD, echoscu, missing, predictor, run_node, storescu, wait_for, write_phantoms
from PIL import Image
from pydicom import Dataset, dcmread
from pydicom.encaps import encapsulate
from pydicom.uid import (
    UID,
    ComprehensiveSRStorage,
    ComputedRadiographyImageStorage,
    CTImageStorage,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    GrayscaleSoftcopyPresentationStateStorage,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    RLELossless,
    SecondaryCaptureImageStorage,
)
from pynetdicom import AE

from cxr_mmdet.dicom.report import read_structured_report
from cxr_mmdet.pacs.job_database import State, count_states, list_jobs, list_undelivered, open_queue
from cxr_mmdet.pacs.node import MAX_PDU_BYTES, VERIFICATION, parse_networks
from cxr_mmdet.pacs.reporting import ReportOptions

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
RADIOGRAPHS = int(os.environ.get("CXR_NODE_RADIOGRAPHS", "24"))
"""Radiographs during which the node is killed twice; 200 are the long version."""
WAIT_S = 120 + 5 * RADIOGRAPHS
NOBODY = "NOBODY@127.0.0.1:9"
"""Nothing listens at the port of the discard service."""

pytestmark = pytest.mark.skipif(bool(missing("storescu", "echoscu")), reason=missing("storescu", "echoscu"))
needs_orthanc = pytest.mark.skipif(orthanc_server.PROGRAM is None, reason="needs the Debian package orthanc")


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[orthanc_server.Orthanc]:
    with orthanc_server.run_orthanc(tmp_path_factory.mktemp("orthanc")) as server:
        yield server


def counts(state: Path) -> dict[str, int]:
    with open_queue(state) as queue:
        return count_states(queue)


def problems(state: Path, which: State) -> list[str]:
    with open_queue(state) as queue:
        found = [job.reason for job in list_jobs(queue, which) if which is not State.predicted]
        return found + [delivery.reason for name, delivery in list_undelivered(queue) if name == which.value]


def results_for(archive: orthanc_server.Orthanc, paths: list[Path]) -> dict[str, Counter[str]]:
    """Return how many objects of each class the archive has for each radiograph."""
    found = {str(dcmread(path, stop_before_pixels=True).SOPInstanceUID): Counter() for path in paths}
    for instance in archive.instances():
        dataset = dcmread(BytesIO(archive.file(instance["ID"])))
        sop_class = str(dataset.SOPClassUID)
        if sop_class == ComprehensiveSRStorage:
            (study,) = dataset.CurrentRequestedProcedureEvidenceSequence
            reference = study.ReferencedSeriesSequence[0].ReferencedSOPSequence[0]
        elif sop_class == GrayscaleSoftcopyPresentationStateStorage:
            reference = dataset.ReferencedSeriesSequence[0].ReferencedImageSequence[0]
        elif sop_class == SecondaryCaptureImageStorage:
            reference = dataset.SourceImageSequence[0]
        else:
            continue
        if (uid := str(reference.ReferencedSOPInstanceUID)) in found:
            found[uid][sop_class] += 1
    return found


ONE_OF_EACH = Counter({str(ComprehensiveSRStorage): 1, str(SecondaryCaptureImageStorage): 1})


@needs_orthanc
def test_what_is_sent_comes_back_to_the_archive_as_the_predictor_says_it(
    tmp_path: Path, archive: orthanc_server.Orthanc
):
    paths = write_phantoms(tmp_path / "in", 2)
    with run_node(tmp_path / "state", f"ORTHANC@127.0.0.1:{archive.dicom_port}") as node:
        assert echoscu(node.port).returncode == 0
        assert storescu(node.port, *paths).returncode == 0
        wait_for(lambda: counts(tmp_path / "state")["done"] == 2)
    assert results_for(archive, paths) == dict.fromkeys(results_for(archive, paths), ONE_OF_EACH)
    header = dcmread(paths[0], stop_before_pixels=True)
    (study,) = [
        study
        for study in archive.json("/studies?expand")
        if study["MainDicomTags"]["StudyInstanceUID"] == header.StudyInstanceUID
    ]
    assert study["PatientMainDicomTags"]["PatientID"] == header.PatientID
    reports = [read_structured_report(archive.file(entry["ID"])) for entry in _structured_reports(archive)]
    (report,) = [report for report, sop_instance_uid in reports if sop_instance_uid == header.SOPInstanceUID]
    expected = predictor().predict(paths[0]).filter(THRESHOLD)
    assert len(expected) > 0
    assert [finding.class_name for finding in report] == [finding.class_name for finding in expected]
    assert np.array_equal(report.scores, expected.scores)
    assert np.array_equal(report.boxes_xyxy, expected.boxes_xyxy.astype(np.float32))
    assert not list((tmp_path / "state").glob("*/*.dcm"))


@needs_orthanc
def test_a_presentation_state_comes_too_where_it_is_asked_for(tmp_path: Path, archive: orthanc_server.Orthanc):
    paths = write_phantoms(tmp_path / "in", 1, first=40)
    reports = ReportOptions(score_threshold=THRESHOLD, capture=False, presentation=True)
    with run_node(tmp_path / "state", f"ORTHANC@127.0.0.1:{archive.dicom_port}", reports=reports) as node:
        assert storescu(node.port, *paths).returncode == 0
        wait_for(lambda: counts(tmp_path / "state")["done"] == 1)
    (found,) = results_for(archive, paths).values()
    assert found == {str(ComprehensiveSRStorage): 1, str(GrayscaleSoftcopyPresentationStateStorage): 1}


def _structured_reports(archive: orthanc_server.Orthanc) -> list[dict]:
    return [
        entry
        for entry in archive.instances()
        if archive.json(f"/instances/{entry['ID']}/simplified-tags")["Modality"] == "SR"
    ]


CONFIG = """
model = "{model}"
threads = 2
[listen]
port = {port}
[report]
score_threshold = {threshold}
[[destination]]
name = "dimse"
kind = "dimse"
ae_title = "ORTHANC"
host = "127.0.0.1"
port = {dicom_port}
[[destination]]
name = "stow"
kind = "stow"
url = "{url}"
[[poll]]
url = "{url}"
interval_s = 1
"""


@pytest.mark.skipif(bool(orthanc_server.NO_DICOMWEB), reason=orthanc_server.NO_DICOMWEB)
@pytest.mark.slow
def test_killed_twice_while_radiographs_come_and_results_go_by_both_protocols_each_arrives_once(
    tmp_path: Path, archive: orthanc_server.Orthanc
):
    """Four associations send one half, an archive with DICOMweb has the other; both archives get all results."""
    paths = write_phantoms(tmp_path / "in", RADIOGRAPHS, size=64, first=100)
    pushed, polled = paths[: RADIOGRAPHS // 2], paths[RADIOGRAPHS // 2 :]
    for path in polled:  # which are searched by the date of the study
        dataset = dcmread(path)
        dataset.StudyDate = f"{datetime.date.today():%Y%m%d}"
        dataset.save_as(path)
    state, port = tmp_path / "state", orthanc_server.free_port()
    log = (tmp_path / "node.log").open("ab")

    def start() -> subprocess.Popen[bytes]:
        command = [sys.executable, str(ROOT / "tools" / "dicom_node.py"), "--config", str(tmp_path / "node.toml")]
        command += ["--state", str(state)]
        process = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, "PYTHONPATH": str(ROOT)})
        wait_for(lambda: echoscu(port).returncode == 0)
        return process

    def send(share: list[Path]) -> None:
        """Send all of it over one association, and all again if that breaks, until everything is accepted."""
        while not given_up.is_set() and storescu(port, *share).returncode != 0:
            given_up.wait(0.3)

    given_up = threading.Event()
    with orthanc_server.run_orthanc(tmp_path / "orthanc") as web:
        config = CONFIG.format(
            model=bundle_of("retina", "onnx"),
            port=port,
            threshold=THRESHOLD,
            dicom_port=archive.dicom_port,
            url=web.dicomweb,
        )
        (tmp_path / "node.toml").write_text(config)
        web.put(*(path.read_bytes() for path in polled))
        node = start()
        senders = [threading.Thread(target=send, args=(pushed[number::4],)) for number in range(4)]
        try:
            for sender in senders:
                sender.start()
            for done in (RADIOGRAPHS // 8, RADIOGRAPHS // 2):
                wait_for(lambda done=done: sum(counts(state).values()) >= done, WAIT_S)
                node.send_signal(signal.SIGKILL)
                node.wait(timeout=30)
                node = start()
            for sender in senders:
                sender.join(timeout=WAIT_S)
            wait_for(lambda: counts(state)["done"] == len(paths), WAIT_S)
            node.send_signal(signal.SIGTERM)
            assert node.wait(timeout=30) == 0
        finally:
            given_up.set()
            node.kill()
            log.close()
        assert counts(state) == {"queued": 0, "predicted": 0, "done": len(paths), "failed": 0}
        for each in (archive, web):
            assert set(map(repr, results_for(each, paths).values())) == {repr(ONE_OF_EACH)}
    assert not list(state.glob("*/*.dcm"))


def test_a_radiograph_that_is_sent_again_is_one_job(tmp_path: Path):
    (path,) = write_phantoms(tmp_path / "in", 1)
    with run_node(tmp_path / "state", NOBODY) as node:
        assert [storescu(node.port, path).returncode for _ in range(3)] == [0, 0, 0]
    assert sum(counts(tmp_path / "state").values()) == 1


@needs_orthanc
def test_a_destination_that_is_down_is_tried_until_it_is_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("cxr_mmdet.pacs.worker.FIRST_DELAY_S", 0.2)
    paths = write_phantoms(tmp_path / "in", 3)
    state, dicom_port = tmp_path / "state", orthanc_server.free_port()
    with run_node(state, f"ORTHANC@127.0.0.1:{dicom_port}") as node:
        assert storescu(node.port, *paths).returncode == 0
        wait_for(lambda: problems(state, State.predicted) and counts(state)["predicted"] == 3)
        assert set(problems(state, State.predicted)) == {f"ORTHANC@127.0.0.1:{dicom_port} cannot be reached"}
        with orthanc_server.run_orthanc(tmp_path / "orthanc", dicom_port=dicom_port) as archive:
            wait_for(lambda: counts(state)["done"] == 3)
            assert archive.count() == 6


def test_what_no_model_can_read_fails_alone_and_says_why(tmp_path: Path):
    paths = write_phantoms(tmp_path / "in", 2)
    damaged = dcmread(paths[0])
    damaged.PixelData = damaged.PixelData[:100]
    damaged.save_as(paths[0])
    state = tmp_path / "state"
    with run_node(state, NOBODY) as node:
        assert storescu(node.port, *paths).returncode == 0
        wait_for(lambda: counts(state)["failed"] == 1 and counts(state)["predicted"] == 1)
    (reason,) = problems(state, State.failed)
    assert str(damaged.SOPInstanceUID) in reason


def test_a_full_disk_is_said_to_the_sender_and_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    paths = write_phantoms(tmp_path / "in", 2)
    state = tmp_path / "state"

    def full(path: Path, content: bytes) -> None:
        raise OSError(28, "No space left on device")

    with run_node(state, NOBODY) as node:
        with monkeypatch.context() as patch:
            patch.setattr("cxr_mmdet.pacs.job_store.write_durably", full)
            assert storescu(node.port, paths[0]).returncode == 0xA7  # storescu ends with the status's first byte
            assert sum(counts(state).values()) == 0
        assert storescu(node.port, *paths).returncode == 0
        wait_for(lambda: counts(state)["predicted"] == 2)


def test_a_disk_that_fills_up_before_the_results_delays_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from cxr_mmdet import files

    monkeypatch.setattr("cxr_mmdet.pacs.worker.FIRST_DELAY_S", 0.2)
    (path,) = write_phantoms(tmp_path / "in", 1)
    state, is_full = tmp_path / "state", threading.Event()
    is_full.set()

    def write(target: Path, content: bytes) -> None:
        if is_full.is_set() and target.parent.name == "results":
            raise OSError(28, "No space left on device")
        files.write_durably(target, content)

    monkeypatch.setattr("cxr_mmdet.pacs.job_store.write_durably", write)
    with run_node(state, NOBODY) as node:
        assert storescu(node.port, path).returncode == 0
        wait_for(lambda: any("No space left" in reason for reason in problems(state, State.queued)))
        is_full.clear()
        wait_for(lambda: counts(state)["predicted"] == 1)


def test_large_pieces_are_taken_from_those_who_can_send_them(tmp_path: Path):
    with run_node(tmp_path / "state", NOBODY) as node:
        entity = AE("SENDER")
        entity.add_requested_context(VERIFICATION)
        association = entity.associate("127.0.0.1", node.port, ae_title="CXR")
        assert association.acceptor.maximum_length == MAX_PDU_BYTES > 2 * AE().maximum_pdu_size
        association.release()


def test_a_malformed_association_harms_nobody(tmp_path: Path):
    with run_node(tmp_path / "state", NOBODY) as node:
        for junk in (b"GET / HTTP/1.1\r\n\r\n", bytes(6) + b"\xff" * 500, b"\x01\x00\x7f\xff\xff\xff", b""):
            with socket.create_connection(("127.0.0.1", node.port), timeout=10) as peer:
                peer.sendall(junk)
        assert echoscu(node.port).returncode == 0


def test_other_kinds_of_objects_are_refused_and_the_node_lives_on(tmp_path: Path):
    (path,) = write_phantoms(tmp_path / "in", 1)
    slice_of_ct = dcmread(path)
    slice_of_ct.SOPClassUID = slice_of_ct.file_meta.MediaStorageSOPClassUID = CTImageStorage
    slice_of_ct.save_as(tmp_path / "ct.dcm")
    with run_node(tmp_path / "state", NOBODY) as node:
        refused = storescu(node.port, tmp_path / "ct.dcm")
        assert "No presentation context for: (CT)" in refused.stderr
        assert storescu(node.port, path).returncode == 0
    assert sum(counts(tmp_path / "state").values()) == 1


@pytest.mark.skipif(bool(missing("dcmsend")), reason=missing("dcmsend"))
def test_compressed_radiographs_are_taken_as_they_are(tmp_path: Path):
    paths = write_phantoms(tmp_path / "in", 1, syntax=JPEG2000Lossless)
    paths += write_phantoms(tmp_path / "in", 1, first=1, syntax=RLELossless)
    state = tmp_path / "state"
    with run_node(state, NOBODY) as node:
        command = ["dcmsend", "-aec", "CXR", "--decompress-never", "127.0.0.1", str(node.port), *map(str, paths)]
        subprocess.run(command, check=True, timeout=60)
        wait_for(lambda: counts(state)["predicted"] == 2)


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.4.55", "1.2.840.10008.1.2.4.110"])
def test_rarer_transfer_syntaxes_are_taken_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, syntax: str):
    """JPEG in scans and JPEG XL, which pydicom does not know."""
    monkeypatch.setattr("pynetdicom._config.STORE_SEND_CHUNKED_DATASET", True)
    (path,) = write_phantoms(tmp_path / "in", 1)
    dataset = dcmread(path)
    pixels = (dataset.pixel_array >> (dataset.BitsStored - 8)).astype(np.uint8)
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 8, 8, 7
    jpeg = BytesIO()
    Image.fromarray(pixels).save(jpeg, "JPEG", progressive=True)
    frames = {
        "1.2.840.10008.1.2.4.55": jpeg.getvalue(),
        "1.2.840.10008.1.2.4.110": bytes(imagecodecs.jpegxl_encode(pixels, lossless=True)),
    }
    dataset.PixelData = encapsulate([frames[syntax]])
    dataset["PixelData"].is_undefined_length = True
    dataset["PixelData"].VR = "OB"
    known = UID(
        syntax if syntax.endswith("55") else "1.2.840.10008.1.2.4.201"
    )  # as long, since pydicom writes no other
    dataset.file_meta.TransferSyntaxUID = known
    dataset.save_as(path)
    path.write_bytes(path.read_bytes().replace(known.encode(), syntax.encode()))
    state = tmp_path / "state"
    with run_node(state, NOBODY) as node:
        assert store_at(node.port, path, syntax).Status == 0x0000
        wait_for(lambda: counts(state)["predicted"] == 1)


def test_only_those_on_the_lists_are_let_in(tmp_path: Path):
    with run_node(tmp_path / "1", NOBODY, calling_ae_titles=("SENDER",)) as node:
        assert echoscu(node.port).returncode == 0
        assert "Calling AE Title Not Recognized" in echoscu(node.port, title="OTHER").stderr
        assert "Called AE Title Not Recognized" in echoscu(node.port, called="OTHER").stderr
    with run_node(tmp_path / "2", NOBODY, networks=parse_networks(["10.0.0.0/8"])) as node:
        assert "never connected" in echoscu(node.port).stderr
    with run_node(tmp_path / "3", NOBODY, networks=parse_networks(["localhost"])) as node:
        assert echoscu(node.port).returncode == 0


def store_at(port: int, dataset: Dataset | Path, *syntaxes: str) -> Dataset:
    """Return the answer to a C-STORE; a file is sent under the UID of its file meta information."""
    entity = AE("SENDER")
    for syntax in syntaxes or (ExplicitVRLittleEndian, ImplicitVRLittleEndian):
        entity.add_requested_context(ComputedRadiographyImageStorage, syntax)
        entity.add_requested_context(DigitalXRayImageStorageForPresentation, syntax)
    association = entity.associate("127.0.0.1", port, ae_title="CXR")
    assert association.is_established
    try:
        return association.send_c_store(dataset)
    finally:
        association.release()


def test_a_reused_uid_is_refused_with_a_status_that_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    (path,) = write_phantoms(tmp_path / "in", 1)
    state = tmp_path / "state"
    first, other_pixels, other_patient = dcmread(path), dcmread(path), dcmread(path)
    other_pixels.PixelData = bytes(len(other_pixels.PixelData))
    other_patient.PatientID, other_patient.PatientName = "another", "Somebody^Else"
    with run_node(state, NOBODY) as node:
        for others_state in ("at once", "after prediction"):
            assert store_at(node.port, first).Status == 0x0000, "the same content is known"
            if others_state == "after prediction":
                wait_for(lambda: counts(state)["predicted"] == 1)
            for other in (other_pixels, other_patient):
                answer = store_at(node.port, other)
                assert answer.Status == 0x0111
                assert answer.ErrorComment == "UID of other pixels or another patient"
    assert sum(counts(state).values()) == 1
    assert f"{first.SOPInstanceUID}: belongs to a radiograph of SENDER" in caplog.text


def test_a_data_set_that_is_not_the_object_of_its_request_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("pynetdicom._config.STORE_SEND_CHUNKED_DATASET", True)
    (path,) = write_phantoms(tmp_path / "in", 1)
    dataset = dcmread(path)
    dataset.SOPInstanceUID = "1.2.3"
    dataset.save_as(other := tmp_path / "other.dcm")
    del dataset.SOPInstanceUID
    dataset.save_as(none := tmp_path / "none.dcm")
    with run_node(tmp_path / "state", NOBODY) as node:
        for damaged in (other, none):
            answer = store_at(node.port, damaged)
            assert answer.Status == 0xA900
            assert answer.ErrorComment == "SOPInstanceUID differs between request and data set"
        assert sum(counts(tmp_path / "state").values()) == 0
        assert store_at(node.port, path).Status == 0x0000
