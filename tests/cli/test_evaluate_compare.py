import json

import pytest
from evaluate_cases import CLOSE, HIT, make_detection, make_ground_truth, run_evaluate, write


@pytest.fixture
def invoke():
    return run_evaluate


@pytest.fixture
def files(tmp_path):
    """Ground truth, a detector that is close and one that hits."""
    return (
        write(tmp_path / "val.json", make_ground_truth(((1, 1, HIT), (2, 1, HIT)))),
        write(tmp_path / "old.json", [make_detection(CLOSE)]),
        write(tmp_path / "new.json", [make_detection(HIT), make_detection(HIT, image_id=2)]),
    )


def test_compare_prints_and_writes_the_differences(invoke, files, tmp_path):
    result = invoke("compare", *files, "--out", tmp_path / "out", "--resamples", 50)
    assert result.exit_code == 0, result.output
    row = next(line.split() for line in result.stdout.splitlines() if line.startswith("  mAP@.5 "))
    # COCO: one of two boxes found first gives precision 1 at 51 of 101 recalls.
    assert row[1:4] == [f"{51 / 101:.3f}", "1.000", f"+{50 / 101:.3f}"]
    assert "old" in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 80
    content = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert (content["first"], content["second"]) == ("old", "new")
    assert content["mean_ap_50"]["difference"]["value"] == pytest.approx(50 / 101)
    assert "<h1>Two detectors</h1>" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    again = invoke("compare", *files, "--out", tmp_path / "out")
    assert again.exit_code == 2
    assert "pass --force" in again.stderr


def test_compare_names_the_detectors_by_what_tells_them_apart(invoke, files, tmp_path):
    twins = [tmp_path / name / "detections.json" for name in ("a", "b")]
    for path, source in zip(twins, files[1:], strict=True):
        path.parent.mkdir()
        path.write_text(source.read_text())
    out = tmp_path / "out"
    invoke("compare", files[0], *twins, "--out", out, "--resamples", 0)
    content = json.loads((out / "comparison.json").read_text())
    assert (content["first"], content["second"]) == ("a", "b")
    invoke("compare", files[0], *twins, "--out", out, "--resamples", 0, "--names", "one", "two", "--force")
    content = json.loads((out / "comparison.json").read_text())
    assert (content["first"], content["second"]) == ("one", "two")


def test_two_files_of_different_classes_are_one_sentence(invoke, files, tmp_path):
    """The second detector knows a class 15 that the ground truth lacks."""
    other = write(tmp_path / "other.json", [make_detection(HIT, category_id=15)])
    result = invoke("compare", *files[:2], other, "--out", tmp_path / "out")
    assert result.exit_code == 1
    assert "other.json, entry 0: category_id 15 is not among the ground truth's" in result.stderr
    assert not (tmp_path / "out").exists()


def test_long_names_of_detectors_leave_the_rows_readable(invoke, files):
    """Rows were named letter by letter at 80 columns."""
    names = ("retinanet_small_lungs_seed_0", "yolo11n_ultralytics_seed_0")
    result = invoke("compare", *files, "--names", *names, "--resamples", 20)
    assert result.exit_code == 0, result.output
    assert "A: retinanet_small_lungs_seed_0" in result.stdout
    assert "B: yolo11n_ultralytics_seed_0" in result.stdout
    assert any(line.startswith("  mAP@.4 (VOC 2010)") for line in result.stdout.splitlines())
    assert max(map(len, result.stdout.splitlines())) <= 80
