"""Every tool, as it is launched: there is a file and an app of each name, and asking for help loads nothing heavy."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from cxr_mmdet.cli.main import TOOLS

ROOT = Path(__file__).resolve().parents[2]
HEAVY = {"cv2", "matplotlib", "mmcv", "mmdet", "mmengine", "numpy", "pandas", "pydicom", "torch"}


def test_each_tool_has_its_launcher():
    """The benchmarks lie beside the package, so that they are no command of an installed wheel."""
    assert {path.stem for path in (ROOT / "tools").glob("*.py")} == {*TOOLS, "benchmark"}


@pytest.mark.parametrize("tool", [*TOOLS, "benchmark"])
def test_help_is_instant_since_nothing_heavy_is_loaded(tool: str):
    script = (
        "import json, runpy, sys\n"
        f"sys.argv = [{tool + '.py'!r}, '--help']\n"
        "try:\n"
        f"    runpy.run_path({str(ROOT / 'tools' / (tool + '.py'))!r}, run_name='__main__')\n"
        "except SystemExit as end:\n"
        "    assert not end.code, end.code\n"
        "print(json.dumps(sorted({name.split('.')[0] for name in sys.modules})))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "Usage:" in done.stdout
    assert HEAVY.isdisjoint(json.loads(done.stdout.splitlines()[-1]))
