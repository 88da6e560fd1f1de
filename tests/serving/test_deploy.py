"""The systemd unit in ``docs/deploy.md``, judged by systemd itself."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "deploy.md"


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
