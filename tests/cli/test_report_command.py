"""Reports from the command line, and back."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import full_disk
from detectors import bundle_of, checkpoint_of, write_image
from node_builders import HEADER, write_phantoms
from pydicom import dcmread
from typer.testing import CliRunner

from cxr_mmdet.cli.report import app
from cxr_mmdet.dicom.report import to_bytes
from cxr_mmdet.inference.predictor import Predictor

ROOT = Path(__file__).resolve().parents[2]


def run(*arguments: str):
    return CliRunner().invoke(app, list(arguments))


def test_predictions_go_out_and_come_back(tmp_path: Path):
    (path,) = write_phantoms(tmp_path / "in", 1)
    model, out = str(bundle_of("retina", "onnx")), tmp_path / "out"
    arguments = ["write", model, str(tmp_path / "in"), "--out", str(out), "--score-threshold", "0.85"]
    assert run(*arguments).exit_code == 0
    assert {file.name for file in out.iterdir()} == {"000.sr.dcm", "000.sc.dcm"}
    result = run("read", str(out / "000.sr.dcm"))
    document = json.loads(result.stdout)
    expected = Predictor.load(model).predict(path)
    assert document["p_abnormal"] == expected.p_abnormal
    assert document["source_sop_instance_uid"] == dcmread(path).SOPInstanceUID
    classes = [finding["class"] for finding in document["findings"]]
    assert classes == [finding["class"] for finding in expected.filter(0.85).to_json()["findings"]]
    assert len(classes) > 0
    height, width, _ = dcmread(out / "000.sc.dcm").pixel_array.shape
    assert height > expected.size_hw[0], "and a strip that says what it is"
    assert width >= expected.size_hw[1]
    again = run(*arguments)
    assert again.exit_code == 2
    assert "pass --force" in " ".join(again.stderr.split())
    assert run(*arguments, "--force", "--no-capture", "--presentation").exit_code == 0
    assert {file.name for file in out.iterdir()} == {"000.sr.dcm", "000.pr.dcm"}
    state = dcmread(out / "000.pr.dcm")
    assert len(state.GraphicAnnotationSequence) == len(classes)


def test_a_checkpoint_is_told_the_size_of_its_images(tmp_path: Path):
    """predict, serve and the node took --short-edge; reports shrank every radiograph to 1024 pixels."""
    (path,) = write_phantoms(tmp_path / "in", 1)
    model, out = str(checkpoint_of("retina")), tmp_path / "out"
    arguments = ["--out", str(out), "--short-edge", "48", "--score-threshold", "0.5"]
    assert run("write", model, str(path), *arguments).exit_code == 0
    found = json.loads(run("read", str(out / "000.sr.dcm")).stdout)["p_abnormal"]
    assert found == Predictor.load(model, short_edge=48, exact=True).predict(path).p_abnormal
    assert found != Predictor.load(model).predict(path).p_abnormal


def test_a_file_is_parsed_and_decoded_once(tmp_path: Path, reads):
    write_phantoms(tmp_path / "in", 2)
    arguments = ["write", str(bundle_of("retina", "onnx")), str(tmp_path / "in"), "--out", str(tmp_path / "out")]
    reads.clear()  # the model may just have been exported, and compared on radiographs
    assert run(*arguments, "--presentation").exit_code == 0
    assert reads == {"parsed": 2, "decoded": 2}


def test_a_full_disk_leaves_no_report_without_its_pair(tmp_path: Path):
    """The report was written, and the capture beside it was not."""
    (path,) = write_phantoms(tmp_path / "in", 1)
    arguments = ["write", str(bundle_of("retina", "onnx")), str(path), "--out", str(tmp_path / "out"), "--presentation"]
    assert run(*arguments).exit_code == 0
    sizes = {file.name: file.stat().st_size for file in (tmp_path / "out").iterdir()}
    assert sizes["000.sc.dcm"] != sizes["000.sr.dcm"]
    with full_disk(max(sizes.values()) - 1):
        result = run(*arguments, "--force")
    assert result.exit_code == 1
    assert "cannot be written (File too large)" in " ".join(result.stderr.split())
    assert not list((tmp_path / "out").iterdir())


def test_the_report_is_written_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """It is what a rerun takes for finished."""
    (path,) = write_phantoms(tmp_path / "in", 1)
    monkeypatch.setattr("cxr_mmdet.files.sync_folder", lambda folder: None)
    replaced: list[str] = []
    replace = os.replace
    monkeypatch.setattr("os.replace", lambda part, target: (replaced.append(Path(target).name), replace(part, target)))
    assert run("write", str(bundle_of("retina", "onnx")), str(path), "--out", str(tmp_path / "out")).exit_code == 0
    assert replaced[-2:] == ["000.sc.dcm", "000.sr.dcm"]


def test_what_cannot_be_reported_on_is_named_and_the_rest_goes_on(tmp_path: Path):
    (path,) = write_phantoms(tmp_path / "in", 1)
    write_image(tmp_path / "in" / "image.png")
    dataset = dcmread(path)
    del dataset.StudyInstanceUID
    dataset.save_as(tmp_path / "in" / "stray.dcm")
    result = run("write", str(bundle_of("retina", "onnx")), str(tmp_path / "in"), "--out", str(tmp_path / "out"))
    assert result.exit_code == 1
    errors = " ".join(result.stderr.split())
    assert "image.png: is an image without patient and study" in errors
    assert "no StudyInstanceUID" in errors
    assert {file.name for file in (tmp_path / "out").iterdir()} == {"000.sr.dcm", "000.sc.dcm"}


def test_a_radiograph_in_colour_has_no_presentation_state(tmp_path: Path):
    (path,) = write_phantoms(tmp_path / "in", 1)
    dataset = dcmread(path)
    grey = (dataset.pixel_array >> 6).astype("uint8")
    dataset.PixelData = grey[..., None].repeat(3, axis=2).tobytes()
    dataset.PhotometricInterpretation, dataset.SamplesPerPixel, dataset.PlanarConfiguration = "RGB", 3, 0
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit = 7
    dataset["PixelData"].VR = "OB"
    dataset.save_as(path)
    model = str(bundle_of("retina", "onnx"))
    assert run("write", model, str(path), "--out", str(tmp_path / "out"), "--presentation").exit_code == 0
    assert {file.name for file in (tmp_path / "out").iterdir()} == {"000.sr.dcm", "000.sc.dcm"}


def test_what_is_no_report(tmp_path: Path):
    path = tmp_path / "image.dcm"
    HEADER.save_as(path, implicit_vr=False, little_endian=True)
    result = run("read", str(path))
    assert result.exit_code == 1
    assert "is not a report of findings" in " ".join(result.stderr.split())


def test_without_highdicom_the_remedy_is_named(tmp_path: Path):
    """In a process of its own, where the package seems not to be installed."""
    script = (
        "import sys\n"
        "sys.modules['highdicom'] = None\n"
        "from cxr_mmdet.cli.report import app\n"
        "app(['read', sys.argv[1]])\n"
    )
    path = tmp_path / "any.dcm"
    path.write_bytes(to_bytes(dcmread(write_phantoms(tmp_path / "in", 1)[0])))
    done = subprocess.run(
        [sys.executable, "-c", script, str(path)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "pip install 'cxr-mmdet[pacs]'" in " ".join(done.stderr.split())


@pytest.mark.parametrize("arguments", [["write"], ["read", "nowhere.dcm"]])
def test_usage(arguments: list[str]):
    assert run(*arguments).exit_code == 2
