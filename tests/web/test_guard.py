"""Requests that our page never makes: files of the server, addresses to fetch, other sites, routes of Gradio."""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
import time
from pathlib import Path

import gradio as gr
import httpx
import pytest
from gradio_client import Client, handle_file
from serving_builders import phantom_dicom

from cxr_mmdet.web.guard import Guard
from cxr_mmdet.web.page import build_page, predict_files
from cxr_mmdet.web.uploads import NOT_UPLOADED, UploadError, remove_unfinished, uploaded_file


@pytest.fixture(scope="module")
def actions(url):
    """Everything that a request can make the page do."""
    return httpx.get(f"{url}/config", timeout=60).json()["dependencies"]


@pytest.fixture
def secret(tmp_path):
    path = tmp_path / "secret" / "patient.dicom"
    path.parent.mkdir(mode=0o700)
    path.write_bytes(phantom_dicom())
    return path


def file_data(path, **more):
    return {"path": str(path), "meta": {"_type": "gradio.FileData"}, **more}


CLIENT = httpx.Client()


def post(url, route, body):
    return CLIENT.post(f"{url}/gradio_api/{route}", json=body, timeout=60)


def reply(url, route, body):
    answer = post(url, route, body)
    return answer.status_code, answer.text


def outside(secret):
    """Paths that were not uploaded: there, missing, a folder, a device, around corners, elsewhere."""
    uploads = Path(os.environ["GRADIO_TEMP_DIR"])
    link, folder_link = uploads / "link.dicom", uploads / "folder"
    link.unlink(missing_ok=True)
    folder_link.unlink(missing_ok=True)
    link.symlink_to(secret)
    folder_link.symlink_to(secret.parent)
    return [
        secret, secret.with_name("missing.dicom"), secret.parent, "/etc/passwd", link,
        folder_link / secret.name, uploads, uploads / "missing.dicom", f"{uploads}/../{secret.name}",
        os.path.relpath(secret), f"{uploads}/{'x' * 5000}", f"{uploads}/a\0.dicom", "", "~/.ssh/id_rsa",
        "http://127.0.0.1:1/a.dicom", f"file://{secret}", 7, None, ["a"],
    ]  # fmt: skip


def test_no_action_takes_a_file_that_was_not_uploaded(url, actions, secret):
    refused = set()
    for action in actions:
        count = max(1, len(action["inputs"]))
        for path in (secret, secret.with_name("missing.dicom")):
            for data in ([[file_data(path)]] * count, [*[None] * (count - 1), {"nested": [file_data(path)]}]):
                body = {"data": data, "fn_index": action["id"], "session_hash": "attack"}
                for route in ("queue/join", "run/predict"):
                    refused.add(reply(url, route, body))
    assert len(actions) > 15
    assert refused == {(403, json.dumps({"detail": NOT_UPLOADED}))}


def test_no_route_takes_a_path_that_is_none_of_an_upload(url, secret):
    refused = set()
    for number, path in enumerate(outside(secret)):
        route = ("run/predict", "call/predict", "api/predict/")[number % 3]
        for file in (file_data(path) if isinstance(path, (str, Path)) else {"path": path}, {"path": str(path)}):
            refused.add(reply(url, route, {"data": [[file], 0.3, 0.5]}))
            refused.add(reply(url, "call/v2/predict", {"files": [file], "score_threshold": 0.3, "nms_iou": 0.5}))
    in_event = {"data": [], "fn_index": 0, "event_data": file_data(secret), "session_hash": "a"}
    refused.add(reply(url, "queue/join", in_event))
    assert refused == {(403, json.dumps({"detail": NOT_UPLOADED}))}


def test_what_is_there_is_not_found_sooner_or_later_than_what_is_missing(secret):
    uploads = secret.parent / "uploads"
    stats = []
    for path in (secret, secret.with_name("missing.dicom")):
        start = time.perf_counter()
        for _ in range(300):
            with pytest.raises(UploadError, match=re.escape(NOT_UPLOADED)):
                uploaded_file(str(path), uploads)
        stats.append(time.perf_counter() - start)
    assert max(stats) < 10 * min(stats)


def test_the_disk_is_not_asked_about_other_places(secret, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "stat", lambda *_args, **_keywords: pytest.fail("the disk was asked"))
    monkeypatch.setattr(os, "lstat", lambda *_args, **_keywords: pytest.fail("the disk was asked"))
    with pytest.raises(UploadError, match=re.escape(NOT_UPLOADED)):
        uploaded_file(str(secret), tmp_path / "uploads")


def test_the_actions_themselves_refuse_whatever_gradio_hands_them(room, secret, tmp_path, monkeypatch):
    """Without the guard before them, as in a version of Gradio that puts requests together in another way."""
    monkeypatch.setattr(room, "open_uploads", lambda *_: pytest.fail("the file was read"))
    folder = tmp_path / "uploads"
    folder.mkdir()
    page = build_page(room, [], folder, upload_seconds=60)
    taking = [each for each in page.fns.values() if any(isinstance(part, gr.File) for part in each.inputs)]
    assert len(taking) == 2, "the upload of the page, and /predict"
    session = {"tokens": [], "active": None, "selected": None}
    values = {gr.State: session, gr.File: [str(secret)], gr.CheckboxGroup: []}
    for each in taking:
        try:
            said = str(each.fn(*[values.get(type(part), 0.5) for part in each.inputs]))
        except gr.Error as error:
            said = str(error)
        assert NOT_UPLOADED in said
    with pytest.raises(gr.Error, match=re.escape(NOT_UPLOADED)):
        predict_files(room, folder, [str(secret)], None, None)


NO_NUMBERS = [None, {}, {"by": [], "factor": "x", "box": [1]}, {"by": "ab", "factor": None, "box": ["nan"] * 4}]


def test_events_that_no_page_sends_get_a_sentence(url, actions):
    ids = {action["api_name"]: action["id"] for action in actions}

    def send(name, data, event):
        body = {"data": data, "fn_index": ids[name], "session_hash": "events", "event_data": event}
        return reply(url, "run/predict", body)

    shown = [None, 0.3, 0.5, []]
    for index in (99, "x", None, [0, 1]):
        assert "there is no such example" in send("open_example", shown, {"index": index})[1]
    assert send("open_example", shown, {"index": 0})[0] == 200
    for event in NO_NUMBERS:
        for name, held in (("pan", "by"), ("zoom_by", "factor"), ("draw", "box")):
            status, text = send(name, [None], event)
            assert (status, f"the request&#x27;s {held} must be" in text) == (200, True), (name, event, text[:200])
        assert send("choose_finding", [None], event)[0] == 200
    assert "must be" not in send("zoom_by", [None], {"factor": 2})[1]


def test_an_address_is_not_fetched(url):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        listener.settimeout(0.3)
        there = f"http://127.0.0.1:{listener.getsockname()[1]}/a.dicom"
        uploaded = httpx.post(f"{url}/gradio_api/upload", files={"files": ("a.dicom", phantom_dicom())}).json()[0]
        assert post(url, "run/predict", {"data": [[{"url": there}], 0.3, 0.5]}).status_code == 403
        assert post(url, "run/predict", {"data": [[file_data(there, url=there)], 0.3, 0.5]}).status_code == 403
        # An upload that names an address beside it is the upload.
        taken = post(url, "api/predict", {"data": [[file_data(uploaded, url=there)], 0.3, 0.5]})
        assert taken.json()["data"][0]["images"]
        for route in (f"proxy={there}", f"file={there}", "proxy=https://example.hf.space/x"):
            assert httpx.get(f"{url}/gradio_api/{route}", timeout=60).status_code == 404
        with pytest.raises(TimeoutError):
            listener.accept()


def test_an_upload_is_taken(url, secret):
    client = Client(url, verbose=False)
    assert client.predict([handle_file(secret)], 0.3, 0.5, api_name="/predict")["images"]


@pytest.mark.parametrize(
    "path",
    [
        "openapi.json", "docs", "redoc", "gradio_api/openapi.json", "gradio_api/docs", "monitoring", "login_check",
        "gradio_api/file=/etc/passwd", "gradio_api/file/etc/passwd", "gradio_api/stream/a/b/1/playlist.m3u8",
        "gradio_api/queue/status", "gradio_api/runs", "gradio_api/deep_link?session_hash=a", "gradio_api/token",
        "gradio_api/dev/reload", "gradio_api/vibe-code", "gradio_api/custom_component/a/client/component/index.js",
        "gradio_api/user", "gradio_api//file=/etc/passwd", "gradio_api/run-history/buckets",
        "gradio_api/profiling/traces", "static/../../../../etc/passwd", "static/%2e%2e/%2e%2e/%2e%2e/etc/passwd",
        "assets/%2e%2e%2f%2e%2e%2f%2e%2e%2fetc/passwd", "GRADIO_API/info",
    ],
)  # fmt: skip
def test_what_the_page_does_not_use_is_not_there(url, path):
    answer = httpx.get(f"{url}/{path}", timeout=60)
    assert answer.status_code in (403, 404)
    assert "root:" not in answer.text


@pytest.mark.parametrize(
    "path",
    [
        "component_server", "process_recording", "stream/a", "stream/a/close", "reset", "cancel", "vibe-edit",
        "run-history/connect", "login",
    ],
)  # fmt: skip
def test_what_the_page_does_not_post_is_not_there(url, path):
    assert post(url, path, {"data": [], "session_hash": "a", "fn_name": "ls", "component_id": 1}).status_code == 404


@pytest.mark.parametrize(
    ("content", "status"),
    [(b"", 400), (b"{", 400), (b"[" * 100_000, 400), (b'"' + b"x" * (1 << 20) + b'"', 413), (b"\xff\xfe", 400)],
)
def test_a_request_that_is_no_json_or_too_much_of_it(url, content, status):
    answer = httpx.post(f"{url}/gradio_api/queue/join", content=content, timeout=60)
    assert answer.status_code == status
    assert "Traceback" not in answer.text


def test_an_upload_is_bounded_before_it_is_read(url):
    files = [("files", (f"{number}.dcm", bytes(3 << 20))) for number in range(4)]
    assert httpx.post(f"{url}/gradio_api/upload", files=files, timeout=60).status_code == 413
    chunks = (bytes(1 << 10) for _ in range(4))
    assert httpx.post(f"{url}/gradio_api/upload", content=chunks, timeout=60).status_code == 411


def raw(url, content):
    """Send bytes and return the status of the answer."""
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(content)
        return int(connection.makefile("rb").readline().split()[1])


UPLOAD = b"POST /gradio_api/upload HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=X\r\n"
PART = b'--X\r\nContent-Disposition: form-data; name="files"; filename="a.dcm"\r\n\r\n'


@pytest.mark.parametrize("route", ["upload", "queue/join"])
def test_a_length_beside_a_transfer_coding_is_not_believed(url, route):
    content = UPLOAD.replace(b"upload", route.encode()) + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert raw(url, content + b"2\r\n{}\r\n0\r\n\r\n") == 411


def test_uploads_that_do_not_end_are_removed(url):
    folder = Path(os.environ["GRADIO_TEMP_DIR"])
    before = set(folder.iterdir())
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(UPLOAD + b"Content-Length: 4000000\r\n\r\n" + PART + bytes(2 << 20))
        deadline = time.monotonic() + 20
        while not (left := set(folder.iterdir()) - before) and time.monotonic() < deadline:
            time.sleep(0.02)
    assert left, "Gradio has begun a file, and leaves it"
    remove_unfinished(folder, 60)
    assert left <= set(folder.iterdir()), "it may be still arriving"
    for path in left:
        os.utime(path, (1, 1))
    remove_unfinished(folder, 60)
    assert not left & set(folder.iterdir())


def test_a_broken_upload_has_its_removal_scheduled(tmp_path):
    part = tmp_path / "tmpabc"

    async def app(scope, receive, send):
        part.write_bytes(b"a patient's name")
        raise ConnectionError("the client has gone")

    async def scenario():
        scope = {"type": "http", "method": "POST", "path": "/gradio_api/upload", "headers": [(b"content-length", b"9")]}
        with pytest.raises(ConnectionError):
            await Guard(app, tmp_path, upload_bytes=100, kept_s=-0.9)(scope, None, None)
        assert part.exists()
        await asyncio.sleep(0.3)

    asyncio.run(scenario())
    assert not part.exists()


def test_uploads_do_not_fill_the_disk(url):
    held = Path(os.environ["GRADIO_TEMP_DIR"]) / "held"
    with held.open("wb") as file:
        file.truncate(80 << 20)  # takes no room; the limit of the room is 8 MiB a request
    try:
        files = [("files", ("a.dcm", b"a"))]
        assert httpx.post(f"{url}/gradio_api/upload", files=files, timeout=60).status_code == 503
    finally:
        held.unlink()
    assert httpx.post(f"{url}/gradio_api/upload", files=files, timeout=60).status_code == 200


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:7860", 200), ("127.0.0.1", 200), ("[::1]:7860", 200), ("10.1.2.3:80", 200),
        ("Reader.example.", 200),
        ("evil.example", 403), ("evil.example:7860", 403), ("localhost.evil.example", 403), ("127.0.0.1.nip.io", 403),
        ("reader.example@evil.example", 403), ("", 403),
    ],
)  # fmt: skip
def test_a_strangers_name_that_points_here_is_not_ours(host, status):
    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    sent = []

    async def send(message):
        sent.append(message)

    guard = Guard(app, Path("/nowhere"), upload_bytes=1, hosts={"localhost", "reader.example"})
    for method in ("GET", "HEAD"):
        scope = {"type": "http", "method": method, "path": "/config", "headers": [(b"host", host.encode())]}
        asyncio.run(guard(scope, None, send))
    assert [message["status"] for message in sent if "status" in message] == [status] * 2


FOREIGN = [
    {"origin": "http://evil.example"}, {"origin": "null"}, {"origin": "http://127.0.0.1:1"}, {"origin": "http://["},
    {"origin": "http://evil.example", "sec-fetch-site": "cross-site"}, {"sec-fetch-site": "same-site"},
]  # fmt: skip


@pytest.mark.parametrize("headers", FOREIGN)
def test_another_site_cannot_use_the_page(url, headers):
    for route in ("queue/join", "run/predict", "upload"):
        answer = httpx.post(f"{url}/gradio_api/{route}", json={"data": []}, headers=headers, timeout=60)
        assert answer.status_code == 403
        assert "access-control-allow-origin" not in answer.headers
    if "origin" in headers:
        for path in ("config", "gradio_api/queue/data?session_hash=a", "download/a/png"):
            answer = httpx.get(f"{url}/{path}", headers=headers, timeout=60)
            assert answer.status_code == 403
            assert "access-control-allow-origin" not in answer.headers
        asking = headers | {"access-control-request-method": "POST"}
        answer = httpx.options(f"{url}/gradio_api/queue/join", headers=asking, timeout=60)
        assert answer.status_code == 403


def test_the_page_itself_and_links_to_it_are_answered(url):
    ours = {"origin": url, "sec-fetch-site": "same-origin"}
    assert httpx.get(f"{url}/config", headers=ours, timeout=60).status_code == 200
    assert httpx.get(f"{url}/config", headers={"origin": url}, timeout=60).status_code == 200
    assert httpx.get(url, headers={"sec-fetch-site": "cross-site"}, timeout=60).status_code == 200
