"""DICOMweb against Orthanc, and against servers that answer as an archive should not."""

from __future__ import annotations

import contextlib
import http.server
import json
import logging
import ssl
import threading
from io import BytesIO
from typing import TYPE_CHECKING, Any

import pytest
from detectors import bundle_of
from node_builders import FINDINGS, HEADER, make_certificate, radiograph_file, write_phantoms
from orthanc_server import NO_DICOMWEB, run_orthanc
from pydicom import dcmread
from pydicom.uid import JPEGLSLossless
from typer.testing import CliRunner

from cxr_mmdet.cli.predict import app as predict
from cxr_mmdet.dicom.report import read_structured_report, structured_report, to_bytes
from cxr_mmdet.errors import UsageError
from cxr_mmdet.pacs.dicomweb import Archive, DicomwebError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from orthanc_server import Orthanc

STUDY, SERIES = HEADER.StudyInstanceUID, HEADER.SeriesInstanceUID


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    if NO_DICOMWEB:
        pytest.skip(NO_DICOMWEB)
    with run_orthanc(tmp_path_factory.mktemp("orthanc")) as server:
        yield server


def run(app: Any, *arguments: str) -> Any:
    return CliRunner().invoke(app, arguments)


def _files(folder: Path, *contents: bytes) -> list[Path]:
    paths = [folder / f"{number}.dcm" for number in range(len(contents))]
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content)
    return paths


def test_what_is_stored_is_found_and_retrieved_as_it_was(orthanc: Orthanc, tmp_path: Path):
    compressed = radiograph_file("1.2.3.7.1", syntax=JPEGLSLossless)
    archive = Archive(orthanc.dicomweb + "/")
    report = to_bytes(structured_report(FINDINGS, HEADER))
    archive.store(_files(tmp_path, compressed, report))
    archive.store(_files(tmp_path, compressed, report))  # what is there already is no failure
    assert orthanc.count() == 2
    (found,) = archive.search_series(STUDY)
    assert found[:2] == (STUDY, SERIES), "the report's series has no radiographs"
    assert archive.search_radiographs(STUDY, SERIES) == ["1.2.3.7.1"]
    assert archive.retrieve(STUDY, SERIES, "1.2.3.7.1") == compressed


def test_pages_are_put_together(orthanc: Orthanc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("cxr_mmdet.pacs.dicomweb.PAGE", 2)
    uids = [f"1.2.3.7.{number}" for number in range(1, 6)]
    archive = Archive(orthanc.dicomweb)
    archive.store(_files(tmp_path, *map(radiograph_file, uids)))
    assert sorted(archive.search_radiographs(STUDY, SERIES)) == uids


def test_an_instance_that_is_refused_is_named(orthanc: Orthanc, tmp_path: Path):
    homeless = dcmread(BytesIO(radiograph_file("1.2.3.8.2")))
    del homeless.StudyInstanceUID
    files = _files(tmp_path, radiograph_file("1.2.3.8.1"), to_bytes(homeless))
    with pytest.raises(
        DicomwebError, match=r"did not store a Computed Radiography .*\(failure reason 0xC000\)"
    ) as info:
        Archive(orthanc.dicomweb).store(files)
    assert (info.value.refused, info.value.busy) == (True, False)


def test_what_the_archive_does_not_have_is_one_sentence(orthanc: Orthanc):
    with pytest.raises(DicomwebError, match=r"answered retrieving with status 404 .*check the address") as info:
        Archive(orthanc.dicomweb).retrieve("1.2", "1.3", "1.4")
    assert info.value.refused
    with pytest.raises(DicomwebError, match="status 404"):
        Archive(orthanc.dicomweb.replace("dicom-web", "app")).search_series("1.2")


def test_a_study_is_predicted_and_its_reports_are_stored(orthanc: Orthanc, tmp_path: Path):
    paths = write_phantoms(tmp_path / "phantoms", 2)
    orthanc.put(*(path.read_bytes() for path in paths))
    first, second = (dcmread(path) for path in paths)
    assert first.StudyInstanceUID != second.StudyInstanceUID
    out = tmp_path / "out"
    options = ["--dicomweb", orthanc.dicomweb, "--study", first.StudyInstanceUID, "--out", str(out)]
    command = [str(bundle_of("retina", "onnx")), *options, "--overlays", "--overlay-score", "0.85"]
    assert run(predict, *command).exit_code == 0
    (image,) = json.loads((out / "findings.json").read_text())["images"]
    assert image["image_id"] == first.SOPInstanceUID
    assert [path.name for path in out.rglob("overlays/*")] == [f"{first.SOPInstanceUID}.png"]
    before = orthanc.count()
    done = run(predict, *command, "--series", first.SeriesInstanceUID, "--store")
    assert done.exit_code == 0
    assert "1 report stored in" in done.stderr
    assert orthanc.count() == before + 1
    findings, uid = read_structured_report(out / "reports" / f"{first.SOPInstanceUID}.sr.dcm")
    assert uid == first.SOPInstanceUID
    assert len(findings) == sum(found["score"] >= 0.3 for found in image["findings"]) > 0


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--study", "1.2.3.99"], "study 1.2.3.99: holds no CR or DX radiograph"),
        (["--study", "1/../2"], "expected UIDs"),
        ([], "the --study to predict"),
        (["file.dcm", "--study", "1.2"], "no files"),
    ],
)
def test_studies_that_cannot_be_predicted(orthanc: Orthanc, tmp_path: Path, options: list[str], expected: str):
    done = run(predict, "model", "--dicomweb", orthanc.dicomweb, "--out", str(tmp_path / "out"), *options)
    assert done.exit_code == 2
    assert expected in " ".join(done.stderr.split())


@contextlib.contextmanager
def _server(answer: Any, tls: ssl.SSLContext | None = None) -> Iterator[tuple[str, list[Any]]]:
    """Yield the address of a server that gives this status, headers and body, and the requests it gets."""
    requests: list[Any] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            requests.append((self.command, self.path, dict(self.headers)))
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            status, headers, body = answer
            self.send_response(status)
            for item in ({"Content-Length": len(body)} | headers).items():
                self.send_header(*map(str, item))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET

        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield f"http{'s' if tls else ''}://localhost:{server.server_address[1]}/dicom-web", requests
    finally:
        server.shutdown()
        server.server_close()


JSON = {"Content-Type": "application/dicom+json"}


def _stored(uid: str) -> bytes:
    return json.dumps({"00081199": {"vr": "SQ", "Value": [{"00081155": {"vr": "UI", "Value": [uid]}}]}}).encode()


def _failed(reason: int) -> bytes:
    item = {"00081155": {"vr": "UI", "Value": ["1.2"]}, "00081197": {"vr": "US", "Value": [reason]}}
    return json.dumps({"00081198": {"vr": "SQ", "Value": [item]}}).encode()


@pytest.mark.parametrize(
    ("answer", "expected", "refused", "busy"),
    [
        ((202, JSON, _failed(0xA700)), "failure reason 0xA700", False, True),
        ((200, JSON, _stored("1.9")), "does not say whether it stored the Computed Radiography", True, False),
        ((409, JSON, _failed(0x0122)), "failure reason 0x0122", True, False),
        ((409, {}, b""), "status 409", True, False),
        ((401, {}, b""), "status 401 .*; it wants credentials, and none were given", True, False),
        ((429, {}, b""), "status 429", False, False),
        ((500, {}, b"oops"), "status 500", False, True),
        ((503, {}, b""), "status 503", False, True),
        ((200, {"Content-Type": "text/html"}, b"<html>login"), "text/html instead of DICOM JSON", True, False),
        ((202, {}, b""), "status 202 with nothing", True, False),
        ((302, {"Location": "https://elsewhere/"}, b""), "redirects storing to https://elsewhere/", False, False),
        ((200, JSON | {"Content-Length": 1 << 40}, b""), "more than 256 MiB", True, False),
    ],
)
def test_answers_to_storing_that_are_not_success(answer: Any, expected: str, refused: bool, busy: bool, tmp_path: Path):
    with _server(answer) as (url, _), pytest.raises(DicomwebError, match=expected) as info:
        Archive(url).store(_files(tmp_path, radiograph_file("1.2")))
    assert (info.value.refused, info.value.busy) == (refused, busy)
    assert str(info.value).startswith(url)


@pytest.mark.parametrize(
    "answer", [(200, {}, b""), (200, JSON | {"Content-Type": "application/dicom+json; charset=utf-8"}, _failed(0x0111))]
)
def test_answers_that_mean_that_it_is_there(answer: Any, tmp_path: Path):
    with _server(answer) as (url, _):
        Archive(url).store(_files(tmp_path, radiograph_file("1.2")))


def test_a_server_that_is_not_there_is_not_a_refusal(tmp_path: Path):
    with _server((200, {}, b"")) as (url, _):
        pass
    with pytest.raises(DicomwebError, match=r"cannot be reached .*refused") as info:
        Archive(url).store(_files(tmp_path, radiograph_file("1.2")))
    assert not info.value.refused


@pytest.mark.parametrize("body", [b"<html>", b"[1]", b'[{"00080060": {"vr": "CS", "Value": ["CR"]}}]', b'{"a": 1}'])
def test_answers_to_searching_that_are_not_dicom_json(body: bytes):
    with _server((200, JSON, body)) as (url, _), pytest.raises(DicomwebError, match="is not DICOMweb"):
        Archive(url).search_series()


@pytest.mark.parametrize("element", [{"00201208": {"vr": "IS", "Value": ["Zebedee"]}}, {"Zebedee": {"vr": "LO"}}])
def test_errors_do_not_quote_what_an_answer_says_of_a_patient(element: dict[str, Any]):
    body = json.dumps([element]).encode()
    with _server((200, JSON, body)) as (url, _), pytest.raises(DicomwebError, match="is not DICOMweb") as caught:
        Archive(url).search_series()
    assert "Zebedee" not in str(caught.value)


def test_a_server_without_filters_and_pages_gives_only_radiographs_and_an_end():
    rows = [
        {"00080060": {"vr": "CS", "Value": [modality]}, "0020000D": {"vr": "UI", "Value": ["1.2"]}, "0020000E": uid}
        for modality, uid in (("CR", {"vr": "UI", "Value": ["1.3"]}), ("CT", {"vr": "UI", "Value": ["1.4"]}))
    ]
    with _server((200, JSON, json.dumps(rows).encode())) as (url, _):
        assert Archive(url).search_series() == [("1.2", "1.3", 0)]


def test_raw_images_are_not_radiographs_and_other_ones_are_not_those_asked_for():
    # The second class is Digital X-Ray for Processing.
    classes = {"1.2": "1.2.840.10008.5.1.4.1.1.1.1", "1.3": "1.2.840.10008.5.1.4.1.1.1.1.1"}
    rows = [
        {"00080016": {"vr": "UI", "Value": [kind]}, "00080018": {"vr": "UI", "Value": [uid]}}
        for uid, kind in classes.items()
    ]
    with _server((200, JSON, json.dumps(rows).encode())) as (url, _):
        assert Archive(url).search_radiographs("1.5", "1.6") == ["1.2"]
    kind = {"Content-Type": 'multipart/related; type="application/dicom"; boundary=b'}
    part = b"--b\r\nContent-Type: application/dicom\r\n\r\n" + radiograph_file("1.9") + b"\r\n--b--"
    with _server((200, kind, part)) as (url, _):
        assert Archive(url).retrieve("1.5", "1.6", "1.9") == radiograph_file("1.9")
        with pytest.raises(DicomwebError, match=r"sent 1\.9 instead of the radiograph 1\.2") as info:
            Archive(url).retrieve("1.5", "1.6", "1.2")
    assert info.value.refused


@pytest.mark.parametrize(
    ("secret", "header"), [("user:pass:ü\n", "Basic dXNlcjpwYXNzOsO8"), ("Bearer abc.def\n", "Bearer abc.def")]
)
@pytest.mark.parametrize("place", ["file", "environment"])
def test_credentials_are_sent_and_never_logged(
    secret: str,
    header: str,
    place: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
):
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("ARCHIVE_LOGIN", secret)
    path = tmp_path / "login"
    path.write_text(secret, encoding="utf-8")
    with _server((401, {}, b"")) as (url, requests), pytest.raises(DicomwebError) as info:
        Archive(url, credentials="env:ARCHIVE_LOGIN" if place == "environment" else str(path)).search_series()
    assert requests[0][2]["Authorization"] == header
    for text in (caplog.text, str(info.value)):
        assert not any(word in text for word in ("pass", "abc", header))


def test_the_certificate_must_be_of_the_authority_that_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    certificate, key = make_certificate(tmp_path, "localhost", "subjectAltName=DNS:localhost")
    other, _ = make_certificate(tmp_path, "other")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))  # does not stand in for the one that is given
    with _server((200, JSON, b"[]"), context) as (url, _):
        assert Archive(url, ca=certificate).search_series() == []
        for ca in (other, None):
            with pytest.raises(DicomwebError, match="not trusted") as info:
                Archive(url, ca=ca).search_series()
            assert not info.value.refused


@pytest.mark.parametrize(
    ("url", "options", "expected"),
    [
        ("ORTHANC@host:4242", {}, "is not the address of a DICOMweb service"),
        ("https://me:secret@host/dicom-web", {}, "put NAME:PASSWORD into a file"),
        ("https://host", {"credentials": "nowhere"}, "nowhere: the credentials cannot be read"),
        ("https://host", {"credentials": "env:CXR_NOT_SET"}, "the environment variable CXR_NOT_SET is not set"),
    ],
)
def test_settings_that_cannot_work(url: str, options: dict[str, str], expected: str):
    with pytest.raises(UsageError, match=expected) as info:
        Archive(url, **options)
    assert "secret" not in str(info.value)
