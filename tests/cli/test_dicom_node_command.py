"""The node's commands: what a user gets to see, and what they can get wrong."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
from pynetdicom import AE
from typer.testing import CliRunner

from cxr_mmdet.cli.dicom_node import app
from cxr_mmdet.cli.main import build_app
from cxr_mmdet.inference.bundle import MODEL_FILE, Bundle
from cxr_mmdet.pacs.job_folder import DiskError
from cxr_mmdet.pacs.job_store import JobStore

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DESTINATION = ["--destination", "ARCHIVE@127.0.0.1:9"]


def run(*arguments: str):
    return CliRunner().invoke(app, list(arguments))


@pytest.fixture
def state(tmp_path: Path) -> Path:
    folder = tmp_path / "state"
    store = JobStore(folder, ["ARCHIVE"])
    for uid in ("1.1", "1.2", "1.3"):
        store.accept(uid, b"image", "A@b")
    job = store.next_queued()
    assert job is not None
    store.fail(job, "1.1: [damaged]")
    job = store.next_queued()
    assert job is not None
    store.predicted(job, {"1-report": b""}, 2)
    delivery = store.next_delivery("ARCHIVE")
    assert delivery is not None
    store.postpone(delivery, "ARCHIVE cannot be reached", 60)
    store.close()
    return folder


def test_status_counts_and_says_why(state: Path):
    result = run("status", "--state", str(state))
    assert result.exit_code == 0
    assert "queued 1  predicted 1  done 0  failed 1" in result.stdout
    assert "1.1: [damaged]" in result.stdout
    assert "ARCHIVE cannot be reached" in result.stdout


def test_status_for_machines(state: Path):
    document = json.loads(run("status", "--state", str(state), "--json").stdout)
    assert document["counts"] == {"done": 0, "failed": 1, "predicted": 1, "queued": 1}
    assert [(row["sop_instance_uid"], row["state"]) for row in document["problems"]] == [
        ("1.1", "failed"),
        ("1.2", "predicted"),
    ]


def test_status_while_the_node_runs(state: Path):
    store = JobStore(state, ["ARCHIVE"])
    assert run("status", "--state", str(state)).exit_code == 0
    store.close()


def test_retry(state: Path):
    assert "1 queued again" in run("retry", "--state", str(state)).stdout
    assert "queued 2  predicted 1  done 0  failed 0" in run("status", "--state", str(state)).stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["status", "--state", "nowhere"], "nowhere: is not the folder of a DICOM node"),
        (["model", "--destination", "ARCHIVE"], "is not of the form AE@host:port"),
        (["run", "model", *DESTINATION, "--ae", "x" * 17], "--ae: got 'xxxxxxxxxxxxxxxxx', expected an AE title"),
        (["model", *DESTINATION, "--allow-host", "no such host.invalid"], "--allow-host: got"),
        (["--port", "0", "model", *DESTINATION, "--allow-ae", ""], "--allow-ae: got '', expected an AE title"),
        (["model", *DESTINATION, "--port", "70000"], "65535"),
        (["model"], "destination is missing; give --destination AE@HOST:PORT"),
        (["run", *DESTINATION], "model is missing; name a checkpoint"),
        (["model", *DESTINATION, "--http", "9100"], "--http: got '9100', expected an address and a port"),
        (["model", *DESTINATION, "--log-format", "xml"], "--log-format: got 'xml', expected 'text' or 'json'"),
        (["model", *DESTINATION, "--class-threshold", "ILD"], "--class-threshold ILD: expected CLASS=SCORE"),
        (["model", "--destination", "https://"], "got 'https://', expected the root of a DICOMweb service"),
        (["model", *DESTINATION, "--config", "nowhere.toml"], "nowhere.toml: cannot be read"),
    ],
)
def test_mistakes_end_in_a_sentence_and_code_2(arguments: list[str], message: str):
    result = run(*arguments)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())


def test_a_model_that_is_not_there(tmp_path: Path):
    result = run(str(tmp_path / "model"), *DESTINATION, "--state", str(tmp_path / "state"))
    assert result.exit_code == 1
    assert "no such model" in " ".join(result.stderr.split())
    assert not (tmp_path / "state").exists()


def test_the_model_need_not_follow_run_in_the_grouped_command_either():
    result = CliRunner().invoke(build_app(), ["dicom_node", "model", "--destination", "ARCHIVE"])
    assert "is not of the form AE@host:port" in " ".join(result.stderr.split())


def test_a_warning_where_everybody_may_send(tmp_path: Path):
    result = run(str(tmp_path / "model"), *DESTINATION, "--host", "0.0.0.0")
    assert "anyone who reaches this address may send" in " ".join(result.stderr.split())
    result = run(str(tmp_path / "model"), *DESTINATION, "--host", "0.0.0.0", "--log-format", "json")
    assert json.loads(result.stderr.splitlines()[0])["message"].startswith("anyone who reaches")
    result = run(str(tmp_path / "model"), *DESTINATION, "--host", "0.0.0.0", "--allow-ae", "A")
    assert "anyone" not in result.stderr


def test_status_has_a_line_per_destination_and_forget_drops_one(state: Path):
    assert "ARCHIVE: waiting 1  delivered 0  failed 0" in run("status", "--state", str(state)).stdout
    document = json.loads(run("status", "--state", str(state), "--json").stdout)
    assert document["destinations"] == {"ARCHIVE": {"waiting": 1, "delivered": 0, "failed": 0}}
    assert document["problems"][-1]["destination"] == "ARCHIVE"
    assert "1 dropped" in run("forget", "ARCHIVE", "--state", str(state)).stdout
    assert "ARCHIVE" not in run("status", "--state", str(state)).stdout


def test_check_says_whether_a_node_can_start(tmp_path: Path, archive_port: int):
    file = tmp_path / "node.toml"
    address = f'kind = "dimse"\nae_title = "ARCHIVE"\nhost = "127.0.0.1"\nport = {archive_port}\n'
    file.write_text(f'model = "model"\n[[destination]]\n{address}')
    result = run("check", str(file))
    assert result.exit_code == 1
    assert f"{tmp_path / 'model'} does not exist" in " ".join(result.stderr.split())
    (tmp_path / "model").mkdir()
    assert run("check", str(file)).exit_code == 0
    (tmp_path / "taken").write_text("")
    for line, message in (
        ('state = "taken/state"', f"state: {tmp_path / 'taken'} cannot be written"),
        ('audit = "taken/audit"', f"audit: {tmp_path / 'taken'} cannot be written"),
        (
            'listen = { allow_host = ["10.1.2.300"] }',
            "wrong.toml: listen.allow_host: got ['10.1.2.300'], expected addresses",
        ),
    ):
        wrong = tmp_path / "wrong.toml"
        wrong.write_text(f"{line}\n{file.read_text()}")
        result = run("check", str(wrong))
        assert result.exit_code in (1, 2)
        assert message in " ".join(result.stderr.split())
    result = run("check", str(file), "--connect")
    assert (result.exit_code, "answers" in result.stdout) == (0, True)
    file.write_text(file.read_text() + f'[[destination]]\nname = "dead"\n{address}'.replace(str(archive_port), "9"))
    result = run("check", str(file), "--connect")
    assert result.exit_code == 1
    assert "dead: ARCHIVE@127.0.0.1:9 cannot be reached" in result.stdout
    file.write_text("prot = 1")
    assert run("check", str(file)).exit_code == 2


def test_check_knows_the_classes_of_a_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Bundle, "open", lambda path: SimpleNamespace(class_names=("Nodule",)))
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / MODEL_FILE).touch()
    file = tmp_path / "node.toml"
    destination = '[[destination]]\nkind = "stow"\nurl = "http://127.0.0.1:9"\n'
    for name, exit_code in (("Nodule", 0), ("Nodle", 2)):
        file.write_text(f'model = "model"\nreport.class_thresholds = {{ {name} = 0.2 }}\n{destination}')
        result = run("check", str(file))
        assert result.exit_code == exit_code
    assert "the model has no class 'Nodle'; its classes are Nodule" in " ".join(result.stderr.split())


@pytest.fixture
def archive_port() -> Iterator[int]:
    entity = AE("ARCHIVE")
    entity.add_supported_context("1.2.840.10008.1.1")
    server = entity.start_server(("127.0.0.1", 0), block=False)
    yield server.server_address[1]
    server.shutdown()


@pytest.mark.parametrize("command", ["status", "retry"])
def test_a_damaged_database_ends_in_a_sentence_and_repair_mends_it(state: Path, command: str):
    (state / "images" / "stray").mkdir()
    (state / "queue.sqlite").write_bytes(b"no database at all" * 100)
    result = run(command, "--state", str(state))
    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit)
    assert f" repair --state {state}`" in " ".join(result.stderr.split())
    result = run("repair", "--state", str(state))
    assert result.exit_code == 0
    assert f"the old database is kept as {state / 'queue.sqlite.damaged-1'}" in result.stdout
    # The builder's images are no DICOM files: nothing says whose they are.
    assert f"set aside in {state / 'quarantine'}" in result.stdout
    assert "stray" in json.loads(run("status", "--state", str(state), "--json").stdout)["quarantine"]


@pytest.mark.parametrize("command", ["status", "retry", "repair"])
def test_a_state_folder_that_is_none(tmp_path: Path, command: str):
    result = run(command, "--state", str(tmp_path / "nowhere"))
    assert result.exit_code == 2
    assert "is not the folder of a DICOM node" in " ".join(result.stderr.split())


def test_a_database_that_is_missing_or_empty_is_not_an_empty_queue(state: Path):
    (state / "queue.sqlite").write_bytes(b"")
    assert "damaged (it is empty)" in " ".join(run("status", "--state", str(state)).stderr.split())
    (state / "queue.sqlite").unlink()
    assert "damaged (it is missing)" in " ".join(run("status", "--state", str(state)).stderr.split())


def test_a_state_folder_that_cannot_be_made(tmp_path: Path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file" / "state", tmp_path / "file"):
        with pytest.raises(DiskError, match=r"cannot be used for the queue .*give a --state folder"):
            JobStore(folder, ["ARCHIVE"])
    result = run("repair", "--state", str(tmp_path / "file" / "state"))
    assert result.exit_code == 2
