"""The scripts in docs/examples, run as their readers run them."""

import json
import subprocess
import sys
from pathlib import Path

import cv2
import detectors
from conftest import PreparedFolder

EXAMPLES = Path(__file__).resolve().parent.parent / "docs" / "examples"


def run(script: str, *arguments: object) -> str:
    """Return what an example prints."""
    command = [sys.executable, str(EXAMPLES / script), *map(str, arguments)]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


def test_read_predict_draw_evaluate_report(prepared_folder: PreparedFolder, tmp_path):
    prepared = prepared_folder()
    printed = run(
        "python_api.py", detectors.bundle_of("retina", "onnx"), prepared, "annotations/val_5.json", tmp_path / "out"
    )
    assert "p_abnormal" in printed
    assert " at [" in printed, "or the test says nothing"
    image = json.loads((prepared / "annotations/val_5.json").read_text())["images"][0]
    assert cv2.imread(str(tmp_path / "out/overlay.png")).shape == (image["height"], image["width"], 3)
    assert (tmp_path / "out/report.html").is_file()
    assert json.loads((tmp_path / "out/metrics.json").read_text())["schema_version"]
