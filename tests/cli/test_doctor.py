import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cxr_mmdet import doctor
from cxr_mmdet.cli.doctor import app
from cxr_mmdet.doctor import Check, Status

REPOSITORY = Path(__file__).parents[2]


def run_doctor(*args, path=()):
    """Run the tool as a user does, with folders in front of the installed packages."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (*path, REPOSITORY))), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(REPOSITORY / "tools" / "doctor.py"), *args]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def test_here_training_can_run():
    result = run_doctor("--json")
    assert result.returncode == 0, result.stdout + result.stderr
    report = json.loads(result.stdout)
    assert report["can_train"] is True
    groups = {check["group"] for check in report["checks"]}
    assert {"Machine", "Packages", "Imports", "Device", "Operators", "DICOM", "Configs"} <= groups
    assert all(check["remedy"] for check in report["checks"] if check["status"] in {"warning", "error"})


@pytest.mark.parametrize("name", ["torch", "mmdet"])
def test_runs_and_says_what_is_wrong_when_a_framework_is_broken(tmp_path, name):
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").write_text("raise OSError('libbroken.so: cannot open shared object file')")
    result = run_doctor("--json", path=[tmp_path])
    assert result.returncode == 1, result.stderr
    errors = [check for check in json.loads(result.stdout)["checks"] if check["status"] == "error"]
    assert [(check["group"], check["name"]) for check in errors] == [("Imports", name)]
    assert "libbroken.so" in errors[0]["value"]
    assert "Traceback" not in result.stderr


@pytest.fixture
def examined(monkeypatch):
    checks = [
        Check("Machine", "Python", "3.11.7"),
        Check("Extras", "dev", "without ruff", Status.note, 'pip install "cxr-mmdet[dev]"'),
    ]
    monkeypatch.setattr(doctor, "examine", lambda: checks)
    return checks


def test_the_table_shows_the_finding_and_its_remedy(examined):
    result = CliRunner().invoke(app, [])
    assert result.exit_code == 0
    assert "3.11.7" in result.stdout
    assert '-> pip install "cxr-mmdet[dev]"' in result.stdout
    assert "Training can run here." in result.stdout


def test_an_error_ends_in_exit_code_1(examined):
    examined.append(Check("Packages", "torch", "missing", Status.error, "pip install [torch]"))
    result = CliRunner().invoke(app, [])
    assert result.exit_code == 1
    assert "-> pip install [torch]" in result.stdout
    assert "Training cannot run here" in result.stdout
