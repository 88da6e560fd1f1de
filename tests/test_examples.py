"""The scripts in docs/examples, run as their readers run them."""

import json
import runpy
import subprocess
import sys
from pathlib import Path

import cv2
import detectors
import modern
import pytest
from conftest import PreparedFolder
from mmdet_oracle import assert_same

from cxr_mmdet import Predictor
from cxr_mmdet.phantom.cases import plan_case
from cxr_mmdet.phantom.render import render_phantom
from cxr_mmdet.structures.labels import LABELS_5

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


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Return a phantom, and images of other shapes, one larger than a prepared one."""
    folder = tmp_path_factory.mktemp("images")
    case = plan_case(0, 0, abnormal_share=1.0, labels=LABELS_5)
    planes = [
        render_phantom(case, size=256).image,
        detectors.make_image(97, 141),
        detectors.make_image(1300, 1100),
    ]
    for number, plane in enumerate(planes):
        levels = cv2.normalize(plane, None, 0, 255, cv2.NORM_MINMAX, cv2.CV_8U)
        cv2.imwrite(str(folder / f"{number}.png"), levels)
    return sorted(folder.iterdir())


@pytest.mark.parametrize(
    "kind",
    [
        "retina_wide",
        "retina",
        "gfl",
        "faster",
        "faster_wide",
        "retina_gate",
        "faster_gate",
        "atss",
        "rtmdet_s",
        "cascade_rcnn",
        "dino_r50",
    ],
)
def test_onnxruntime_alone_gives_our_findings(kind, images):
    bundle = (modern if kind in modern.DETECTORS and kind != "gfl" else detectors).bundle_of(kind, "onnx")
    predictor = Predictor.load(bundle)
    predict = runpy.run_path(str(EXAMPLES / "onnxruntime_only.py"))["predict"]
    counts = []
    for path in images:
        expected = predictor.predict(path)
        boxes, labels, scores, p_abnormal, names = predict(bundle, cv2.imread(str(path), cv2.IMREAD_GRAYSCALE))
        assert tuple(names) == expected.class_names
        assert p_abnormal == pytest.approx(expected.p_abnormal, abs=1e-4)
        assert_same(expected, boxes, scores, labels, slack=5)
        counts.append(len(expected))
    assert max(counts) > 5, "or the test says nothing"


def test_onnxruntime_alone_prints_findings_without_our_package(images):
    """Neither this package nor torch can be imported there."""
    bundle = detectors.bundle_of("retina", "onnx")
    code = (
        "import runpy, sys; sys.modules.update(cxr_mmdet=None, torch=None, mmdet=None);"
        f"sys.argv = ['', {str(bundle)!r}, {str(images[1])!r}];"
        f"runpy.run_path({str(EXAMPLES / 'onnxruntime_only.py')!r}, run_name='__main__')"
    )
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    expected = Predictor.load(bundle).predict(images[1])
    found = json.loads(finished.stdout)["findings"]
    assert [row["class"] for row in found] == [finding.class_name for finding in expected]
