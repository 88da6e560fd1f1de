"""The whole way of a competition as its participants go it: DICOM and readers' table in, submission.csv out."""

import csv
import json
import re
import shutil

import pytest
from shared_builds import repeat_nothing_slow
from training_runs import train_here
from typer.testing import CliRunner

from cxr_mmdet.cli import evaluate, predict, prepare_data
from cxr_mmdet.structures.labels import LABELS_14

TEST_IMAGES = 4


def invoke(app, *arguments, code=0):
    result = CliRunner().invoke(app, list(map(str, arguments)))
    assert result.exit_code == code, result.output
    return result


def read_strictly(path, sizes_hw):
    """Return {image id: predictions}; a reader of its own of what the competition's page asks for, nothing besides."""
    with path.open(newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["image_id", "PredictionString"]
    submitted = {}
    for image_id, text in rows:
        assert image_id not in submitted
        assert re.fullmatch(r"\S+( \S+)*", text), "single blanks"
        words = text.split(" ")
        assert len(words) % 6 == 0
        submitted[image_id] = [words[start : start + 6] for start in range(0, len(words), 6)]
        height, width = sizes_hw[image_id]
        for label, score, *corners in submitted[image_id]:
            assert 0 <= int(label) <= 14
            assert 0 <= float(score) <= 1
            left, top, right, bottom = map(int, corners)
            assert (left, top, right, bottom) == (0, 0, 1, 1) or label != "14"
            assert 0 <= left < right <= width
            assert 0 <= top < bottom <= height
    return submitted


@pytest.fixture(scope="module")
def predictions(tmp_path_factory):
    """Return a folder with the competition's files and predictions of a detector that was trained for 2 iterations."""
    repeat_nothing_slow()
    folder = tmp_path_factory.mktemp("competition")
    source = folder / "vinbigdata"
    options = ("--size", 128, "--seed", 3, "--abnormal-share", 0.8)
    invoke(prepare_data.app, "phantom", source, "--images", 16, *options)
    (source / "test").mkdir()
    kept_back = sorted((source / "train").iterdir())[:TEST_IMAGES]
    for path in kept_back:
        shutil.move(path, source / "test" / path.name)
    names = {path.stem for path in kept_back}
    header, *rows = (source / "train.csv").read_text().splitlines(keepends=True)
    (source / "train.csv").write_text("".join([header, *(row for row in rows if row.split(",")[0] not in names)]))
    lines = "".join(f"{name},14 1 0 0 1 1\n" for name in sorted(names, reverse=True))
    (source / "sample_submission.csv").write_text("image_id,PredictionString\n" + lines)
    invoke(prepare_data.app, "build", source, folder / "prepared", "--join-duplicates")
    iterations = ("train_cfg.max_iters=2", "train_cfg.val_interval=2")
    train_here(folder / "prepared", folder / "run", *iterations, more=("--labels", "14"))
    predict_options = ("--out", folder / "test", "--score-threshold", 0.001)
    invoke(predict.app, next((folder / "run").glob("iter_2.pth")), source / "test", *predict_options)
    return folder


def test_from_dicom_and_table_to_submission(predictions, tmp_path):
    out, sample = tmp_path / "submission.csv", predictions / "vinbigdata" / "sample_submission.csv"
    invoke(evaluate.app, "submission", predictions / "test", "--sample", sample, "--out", out)
    images = json.loads((predictions / "test" / "findings.json").read_text())["images"]
    sizes_hw = {image["image_id"]: (image["height"], image["width"]) for image in images}
    submitted = read_strictly(out, sizes_hw)
    assert list(submitted) == [row.split(",")[0] for row in sample.read_text().splitlines()[1:]]
    for image in images:
        *boxes, no_finding = submitted[image["image_id"]]
        assert no_finding == ["14", f"{1 - image['p_abnormal']:.9g}", "0", "0", "1", "1"]
        assert len(boxes) == len(image["findings"]) > 0
        for (label, score, *corners), finding in zip(boxes, image["findings"], strict=True):
            assert LABELS_14[int(label)] == finding["class"]
            assert float(score) == pytest.approx(finding["score"], rel=1e-8)
            assert list(map(int, corners)) == pytest.approx(finding["box_xyxy"], abs=1)


def test_images_without_predictions_are_refused_or_submitted_as_normal(predictions, tmp_path):
    out, sample = tmp_path / "submission.csv", tmp_path / "sample_submission.csv"
    text = (predictions / "vinbigdata" / "sample_submission.csv").read_text()
    sample.write_text(text + "unreadable,14 1 0 0 1 1\n")
    arguments = ("submission", predictions / "test" / "findings.json", "--sample", sample, "--out", out)
    refused = invoke(evaluate.app, *arguments, code=1)
    assert f"asks for {TEST_IMAGES + 1} images, of which 1 were not predicted, such as 'unreadable'" in refused.stderr
    allowed = invoke(evaluate.app, *arguments, "--allow-missing")
    assert "1 image without predictions submitted as normal, such as unreadable" in allowed.stderr
    assert out.read_text().splitlines()[-1] == "unreadable,14 1 0 0 1 1"


def test_another_file_than_predictions_is_one_sentence(tmp_path):
    (tmp_path / "findings.json").write_text("[]")
    result = invoke(evaluate.app, "submission", tmp_path, "--out", tmp_path / "s.csv", code=1)
    assert "is not the findings.json that tools/predict.py writes" in result.stderr
