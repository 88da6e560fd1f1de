"""The page as a server: twenty at once, hostile uploads, downloads, passwords, nothing fetched and nothing kept."""

from __future__ import annotations

import base64
import json
import os
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from serving_builders import phantom_dicom, predictor, running_site

from cxr_mmdet.errors import UsageError
from cxr_mmdet.web.auth import read_users
from cxr_mmdet.web.cases import Cases, Filter
from cxr_mmdet.web.uploads import Upload


@pytest.fixture(scope="module")
def client(url):
    return Client(url, verbose=False)


@pytest.fixture
def dicom_path(tmp_path):
    path = tmp_path / "a.dicom"
    path.write_bytes(phantom_dicom())
    return path


def test_programs_get_what_predict_says(client, dicom_path):
    answer = client.predict([handle_file(dicom_path)], 0.4, 0.5, api_name="/predict")
    expected = predictor().predict(dicom_path, score_threshold=0.4, nms_iou=0.5).to_json()
    (image,) = answer["images"]
    assert image["findings"] == json.loads(json.dumps(expected["findings"]))
    assert len(image["findings"]) > 3
    assert (image["image_id"], image["height"]) == ("a", expected["height"])
    assert answer["failures"] == []


def test_files_named_by_a_uid_without_suffix_are_taken_under_it(client, tmp_path):
    paths = [tmp_path / f"1.2.826.0.1.{number}" for number in (1, 2)]
    for path in paths:
        path.write_bytes(phantom_dicom())
    answer = client.predict([handle_file(path) for path in paths], 0.4, 0.5, api_name="/predict")
    assert [image["image_id"] for image in answer["images"]] == [path.name for path in paths]
    uploads = [part for part in client.config["components"] if part["type"] == "file"]
    assert uploads
    assert all(part["props"].get("file_types") is None for part in uploads), "Gradio refuses by the suffix alone"


def test_the_only_public_end_point_is_predict(client):
    assert set(client.view_api(return_format="dict")["named_endpoints"]) == {"/predict"}


def test_twenty_uploads_at_once_are_all_answered(client, room, tmp_path):
    paths = []
    for number in range(20):
        path = tmp_path / f"{number}.dicom"
        path.write_bytes(phantom_dicom(number % 3))
        paths.append(path)
    alone = {
        number: client.predict([handle_file(paths[number])], 0.3, 0.5, api_name="/predict")["images"][0]["findings"]
        for number in range(3)
    }
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda path: client.predict([handle_file(path)], 0.3, 0.5, api_name="/predict"), paths))
    for number, answer in enumerate(answers):
        (image,) = answer["images"]
        assert image["image_id"] == str(number)
        assert image["findings"] == alone[number % 3]
    assert len(room.cases) == 0, "programs' radiographs are not held"


def hostile(tmp_path, name):
    path = tmp_path / name
    if name == "page.dcm":
        path.write_bytes(b"<!doctype html><html><body><script>alert(1)</script></body></html>")
    elif name == "huge.dcm":
        content = phantom_dicom()
        rows = content.index(b"\x28\x00\x10\x00US\x02\x00") + 8
        columns = content.index(b"\x28\x00\x11\x00US\x02\x00") + 8
        content = content[:rows] + b"\x00\x80" + content[rows + 2 : columns] + b"\x00\x80" + content[columns + 2 :]
        path.write_bytes(content)
    else:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            if name == "bomb.zip":
                for number in range(20):
                    archive.writestr(f"{number}.png", bytes(1 << 20))
            else:
                archive.writestr("../../../../tmp/evil.png", b"x")
    return path


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("bomb.zip", "bomb.zip: unpacks to more than 8 MiB; it is refused."),
        ("path.zip", "path.zip: holds a file whose name leads out of the archive; it is refused."),
        ("page.dcm", "page.dcm: not a DICOM file nor a PNG, JPEG or TIFF image"),
        ("huge.dcm", "huge.dcm: 32768 x 32768 pixels is beyond the limit of 1,000,000 pixels"),
    ],
)
def test_hostile_uploads_end_in_a_sentence_and_the_page_lives_on(client, tmp_path, dicom_path, name, message):
    path = hostile(tmp_path, name)
    try:
        answer = client.predict([handle_file(path)], 0.3, 0.5, api_name="/predict")
        said = answer["failures"]
    except AppError as error:
        said = [str(error)]
    assert said == [message]
    assert client.predict([handle_file(dicom_path)], 0.3, 0.5, api_name="/predict")["images"]


def test_a_threshold_that_makes_no_sense(client, dicom_path):
    with pytest.raises(AppError, match="expected a number in 0…1"):
        client.predict([handle_file(dicom_path)], 0.3, 7, api_name="/predict")


def test_an_upload_beyond_the_limit_is_not_taken(url, tmp_path):
    before = set(Path(os.environ["GRADIO_TEMP_DIR"]).rglob("*"))
    answer = httpx.post(f"{url}/gradio_api/upload", files={"files": ("big.dcm", bytes(9 << 20))}, timeout=60)
    assert answer.status_code == 413
    assert {path for path in Path(os.environ["GRADIO_TEMP_DIR"]).rglob("*") if path.is_file()} <= before


def test_the_page_calls_nobody_else(url):
    answer = httpx.get(url, timeout=60)
    assert answer.status_code == 200
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'self'")
    assert "http" not in policy
    assert "fonts.googleapis.com" not in answer.text
    assert "Research use only, not a medical device" in answer.text


@pytest.fixture
def case(room):
    (case,), _ = room.open_uploads([Upload("Übung 1.dicom", phantom_dicom())], Filter(0.3, 0.5))
    yield case
    room.cases.drop([case.token])


def test_downloads(url, case):
    def get(kind):
        answer = httpx.get(f"{url}/download/{case.token}/{kind}", timeout=60)
        assert answer.status_code == 200, answer.text
        assert answer.headers["cache-control"] == "no-store"
        return answer

    png = get("png")
    assert png.content.startswith(b"\x89PNG")
    assert png.headers["content-disposition"] == 'attachment; filename="bung_1-overlay.png"'
    findings = get("json").json()["images"][0]["findings"]
    assert len(findings) == len(list(case.findings()))
    assert len(get("csv").text.splitlines()) == 1 + len(findings)


@pytest.mark.parametrize("path", ["download/unknown/png", "download/../../etc/passwd", "download/{token}/exe"])
def test_downloads_that_are_none(url, case, path):
    answer = httpx.get(f"{url}/{path.format(token=case.token)}", timeout=60)
    assert answer.status_code in (404, 422)
    assert "root:" not in answer.text


def test_the_oldest_cases_go_when_memory_ends(room):
    cases, _ = room.open_uploads([Upload(f"{i}.dicom", phantom_dicom()) for i in range(4)], Filter())
    held = Cases(most=10, most_bytes=2 * cases[0].nbytes)
    for case in cases:
        held.add(case)
    assert [held.find(case.token) is not None for case in cases] == [False, False, True, True]
    few = Cases(most=1, most_bytes=1)
    for case in cases[:2]:
        few.add(case)
    assert len(few) == 1
    room.cases.drop([case.token for case in cases])


def test_passwords(room, dicom_path):
    def status(url, *credentials):
        header = {}
        if credentials:
            header = {"authorization": "Basic " + base64.b64encode(":".join(credentials).encode()).decode()}
        return httpx.get(url, headers=header, timeout=60).status_code

    with running_site(room, users={"ann": "sesame: open", "böb": "pässword"}) as url:
        for path in ("", "/config", "/gradio_api/info", "/download/x/png"):
            assert status(url + path) == 401
        assert status(url, "ann", "wrong") == 401
        assert status(url, "eve", "\0") == 401
        assert status(url, "eve", "") == 401
        assert status(url, "ann", "sesame: open") == 200
        assert status(url, "böb", "pässword") == 200
        header = {"authorization": "Basic " + base64.b64encode(b"ann:sesame: open").decode()}
        ann = Client(url, headers=header, verbose=False)
        assert ann.predict([handle_file(dicom_path)], 0.3, 0.5, api_name="/predict")["images"]


def test_a_password_file(tmp_path):
    path = tmp_path / "users"
    path.write_text("# readers\nann:a:b\n\nbob:c\n")
    path.chmod(0o600)
    assert read_users(path) == {"ann": "a:b", "bob": "c"}


@pytest.mark.parametrize(
    ("text", "mode", "message"),
    [
        ("ann:a\n", 0o644, "others can read it"),
        ("ann\n", 0o600, "line 1: expected user:password"),
        (":a\n", 0o600, "line 1: expected user:password"),
        ("\n# nobody\n", 0o600, "names no user"),
    ],
)
def test_a_password_file_that_is_none(tmp_path, text, mode, message):
    path = tmp_path / "users"
    path.write_text(text)
    path.chmod(mode)
    with pytest.raises(UsageError, match=message):
        read_users(path)
