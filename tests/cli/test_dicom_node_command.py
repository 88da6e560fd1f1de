"""The node's commands: what a user gets to see, and what they can get wrong."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

from cxr_mmdet.cli.dicom_node import app
from cxr_mmdet.cli.main import build_app
from cxr_mmdet.serving.job_store import JobStore, State

if TYPE_CHECKING:
    from pathlib import Path

DESTINATION = ["--destination", "ARCHIVE@127.0.0.1:9"]


def run(*arguments: str):
    return CliRunner().invoke(app, list(arguments))


@pytest.fixture
def state(tmp_path: Path) -> Path:
    folder = tmp_path / "state"
    store = JobStore(folder)
    for uid in ("1.1", "1.2", "1.3"):
        store.accept(uid, b"image", "A@b")
    job = store.next(State.queued)
    assert job is not None
    store.fail(job, "1.1: [damaged]")
    job = store.next(State.queued)
    assert job is not None
    store.predicted(job, {"1-report": b""}, 2)
    job = store.next(State.predicted)
    assert job is not None
    store.postpone(job, "ARCHIVE cannot be reached", 60)
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
    store = JobStore(state)
    assert run("status", "--state", str(state)).exit_code == 0
    store.close()


def test_retry(state: Path):
    assert "1 queued again" in run("retry", "--state", str(state)).stdout
    assert "queued 2  predicted 1  done 0  failed 0" in run("status", "--state", str(state)).stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["status", "--state", "nowhere"], "nowhere: is no folder of a DICOM node"),
        (["model", "--destination", "ARCHIVE"], "is not of the form AE@host:port"),
        (["run", "model", *DESTINATION, "--ae", "x" * 17], "is no AE title"),
        (["model", *DESTINATION, "--allow-host", "no such host.invalid"], "no known name"),
        (["--port", "0", "model", *DESTINATION, "--allow-ae", ""], "--allow-ae '': is no AE title"),
        (["model", *DESTINATION, "--port", "70000"], "65535"),
        (["model"], "--destination"),
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
    result = run(str(tmp_path / "model"), *DESTINATION, "--host", "0.0.0.0", "--allow-ae", "A")
    assert "anyone" not in result.stderr
