"""What ``docs/deploy.md`` has users write: the unit, judged by systemd itself, and what is to be installed."""

from __future__ import annotations

import re
import shutil
import subprocess
from importlib.metadata import metadata
from pathlib import Path

import pytest

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "deploy.md"


def test_what_is_installed_runs_what_is_exported():
    """The node needs the pacs extra, and the backend of the bundle's format."""
    document = DOCUMENT.read_text(encoding="utf-8")
    installed = [set(extras.split(",")) for extras in re.findall(r"(?:cxr-mmdet|\.whl\))\[([\w,]+)\]", document)]
    (form,) = re.findall(r"--format (\w+)", document)
    assert len(installed) == 2, "by hand, and in the container"
    assert all(extras == {form, "pacs"} for extras in installed)
    assert {form, "pacs"} <= set(metadata("cxr-mmdet").get_all("Provides-Extra"))


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs the Debian package systemd")
def test_systemd_finds_nothing_wrong_with_the_unit(tmp_path: Path):
    (unit,) = re.findall(r"```ini\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    program = "/opt/cxr/bin/cxr"
    assert program in unit
    path = tmp_path / "cxr-node.service"
    path.write_text(unit.replace(program, "/bin/true"), encoding="utf-8")
    done = subprocess.run(["systemd-analyze", "verify", str(path)], capture_output=True, text=True, check=False)
    # It also ends with 0 after remarks such as "Unknown key … ignoring".
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
