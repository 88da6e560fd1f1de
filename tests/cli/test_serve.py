"""``serve`` refuses what is unsafe or missing in one sentence, and serves until it is interrupted."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from detectors import bundle_of
from typer.testing import CliRunner

from cxr_mmdet.cli.serve import _names, app

ROOT = Path(__file__).resolve().parents[2]


def run(*arguments: object):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_it_is_not_opened_to_others_by_accident(tmp_path):
    result = run("model", "--host", "0.0.0.0")
    assert result.exit_code == 2
    assert "--auth-file" in result.output
    assert "Traceback" not in result.output


def test_names_need_a_store():
    result = run("model", "--keep-identity")
    assert result.exit_code == 2
    assert "pass --store" in result.output


def test_a_model_that_is_none(tmp_path):
    result = run(tmp_path / "no.pth")
    assert result.exit_code == 1
    assert "no such model" in result.output


def test_a_password_file_that_others_read(tmp_path):
    path = tmp_path / "users"
    path.write_text("ann:a")
    path.chmod(0o644)
    result = run("model", "--auth-file", path)
    assert result.exit_code == 2
    assert "chmod 600" in result.output


def test_a_page_without_passwords_answers_to_its_own_names():
    """Another name may be that of a site that lets it point here (DNS rebinding)."""
    names = _names("reader.example", None, ["PACS.example."])
    assert names is not None
    assert {"localhost", "reader.example", "pacs.example", socket.gethostname().lower()} <= names
    assert _names("127.0.0.1", {"ann": "a"}, None) is None


@pytest.mark.slow
def test_the_tool_serves_until_interrupted(tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "tools/serve.py", str(bundle_of("retina", "onnx")), "--port", str(port)]
    with subprocess.Popen(
        [*command, "--store", str(tmp_path / "store")], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline().decode().strip() == f"http://localhost:{port}/"
            deadline = time.monotonic() + 120
            while True:
                try:
                    answer = httpx.get(f"http://127.0.0.1:{port}/", timeout=60)
                    break
                except httpx.ConnectError:
                    assert time.monotonic() < deadline
                    time.sleep(0.2)
            assert answer.status_code == 200
            process.send_signal(signal.SIGINT)
            assert process.wait(60) in (0, 130, -signal.SIGINT)
        finally:
            process.kill()
    assert (tmp_path / "store" / "readings.sqlite").is_file()
