"""The redraw benchmark changes what is shown each round, and reports what each slider costs."""

from __future__ import annotations

import json

from detectors import checkpoint_of
from typer.testing import CliRunner

from benchmarks.cli import app


def test_redraw_as_json():
    result = CliRunner().invoke(
        app, ["redraw", str(checkpoint_of("retina")), "--rounds", "2", "--size", "256", "--json"]
    )
    assert result.exit_code == 0, result.output
    (comparison,) = json.loads(result.stdout)["comparisons"]
    names = [entry["name"] for entry in comparison["alternatives"]]
    assert names == ["predicting again", "threshold moved", "window moved", "zoom moved"]
    assert all(len(entry["wall_s"]) == 2 for entry in comparison["alternatives"])
