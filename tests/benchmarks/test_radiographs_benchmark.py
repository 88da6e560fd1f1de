import json

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from benchmarks.cli import app
from benchmarks.radiographs import ENCODINGS, benchmark_radiographs, phantom_pixels, usual_script, write_dicom
from cxr_mmdet.dicom.radiograph import read_radiograph
from cxr_mmdet.preparation.images import read_to_size

SIZE_HW = (192, 160)


@pytest.fixture(scope="module")
def stored():
    return phantom_pixels(0, SIZE_HW)


def test_images_use_their_16_bits_and_fill_any_size(stored):
    assert (stored.shape, stored.dtype) == (SIZE_HW, np.uint16)
    assert stored.max() > 2**15
    assert phantom_pixels(0, (300, 160)).shape == (300, 160)


@pytest.mark.parametrize("encoding", ENCODINGS, ids=lambda encoding: encoding.name)
def test_every_encoding_holds_the_same_image(encoding, stored, tmp_path):
    path = write_dicom(tmp_path / "x.dcm", stored, encoding)
    radiograph = read_radiograph(path)
    assert radiograph.transfer_syntax == encoding.syntax.name
    plain = read_radiograph(write_dicom(tmp_path / "plain.dcm", stored, ENCODINGS[0]))
    np.testing.assert_array_equal(radiograph.pixels, plain.pixels)


def test_the_usual_script_makes_nearly_the_same_image(stored, tmp_path):
    path = write_dicom(tmp_path / "x.dcm", stored, ENCODINGS[0])
    usual_script(path, tmp_path / "script.png", short_edge=80)
    script = cv2.imread(str(tmp_path / "script.png"), cv2.IMREAD_UNCHANGED)
    _, ours = read_to_size(path, 80)
    assert script.shape == ours.shape == (96, 80)
    assert np.corrcoef(script.ravel(), ours.ravel())[0, 1] > 0.98  # it sharpens, and stretches to the extremes


def test_who_is_compared_with_whom():
    report = benchmark_radiographs(size_hw=SIZE_HW, images=1, rounds=2, workers=2, memory=True)
    names = {each.title: [entry.name for entry in each.timings] for each in report.comparisons}
    assert names == {
        "Preparing radiographs, uncompressed": ["usual script", "cxr_mmdet"],
        "Preparing radiographs, JPEG 2000 lossless": ["usual script", "cxr_mmdet", "ours, reduced", "bare codec"],
        "Against the bare codec, JPEG 2000 lossless": ["bare codec", "cxr_mmdet"],
        "Preparing radiographs, JPEG lossless": ["usual script", "cxr_mmdet", "bare codec"],
        "Against the bare codec, JPEG lossless": ["bare codec", "cxr_mmdet"],
        "Preparing radiographs of all three": ["1 worker", "2 workers"],
    }
    assert all(len(entry.cpu_s) == 2 for each in report.comparisons for entry in each.timings)
    assert report.worker_peak_bytes is None or 5e7 < report.worker_peak_bytes < 1e9


def test_one_worker_alone_and_output_that_fits():
    small = ("--width", "64", "--height", "64", "--images", "1", "--rounds", "1")
    runner = CliRunner(env={"COLUMNS": "80"})
    result = runner.invoke(app, ["radiographs", *small, "--workers", "1", "--json"])
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert len(document["comparisons"]) == 5
    assert document["worker_peak_bytes"] is None
    assert document["machine"]["imagecodecs"].startswith("imagecodecs ")
    result = runner.invoke(app, ["radiographs", *small, "--memory"])
    assert result.exit_code == 0, result.output
    tables, _, machine = result.stdout.rstrip().rpartition("\n")
    assert max(map(len, tables.splitlines())) <= 80
    assert "images/s" in tables
    assert "pydicom " in machine
