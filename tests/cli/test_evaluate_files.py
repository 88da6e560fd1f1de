import json

import pytest
from evaluate_cases import CLOSE, HIT, make_detection, make_ground_truth, run_evaluate, write

from cxr_mmdet.evaluation.submission import read_submission


@pytest.fixture
def invoke():
    return run_evaluate


@pytest.fixture
def files(tmp_path):
    truth = make_ground_truth(((1, 1, HIT), (2, 1, HIT)))
    for image in truth["images"]:
        image |= {"image_id": f"i{image['id']}", "width": 100, "height": 100}
        image |= {"original_width": 200, "original_height": 300}
    detections = [
        make_detection(HIT, score=0.8),
        make_detection(CLOSE, image_id=2, score=0.6),
        make_detection([60, 60, 9, 9]),
    ]
    return write(tmp_path / "val.json", truth), write(tmp_path / "detections.json", detections)


def test_submission_is_in_source_pixels_and_can_be_scored(invoke, files, tmp_path):
    out = tmp_path / "submission.csv"
    result = invoke("submission", *files, "--out", out)
    assert (result.exit_code, result.stdout.strip()) == (0, str(out))
    assert out.read_text().splitlines()[1] == "i1,0 0.9 120 180 138 207 0 0.8 20 30 100 210 14 0.1 0 0 1 1"
    assert len(read_submission(out, json.loads(files[0].read_text())).detections) == 3
    assert invoke("submission", *files, "--out", out).exit_code == 2
    by_csv, by_json = (invoke("run", files[0], results, "--resamples", 0).stdout for results in (out, files[1]))
    assert by_csv == by_json


@pytest.mark.parametrize(
    ("command", "options"),
    [("submission", ()), ("thresholds", ("--sensitivity", 0.5)), ("gallery", ("--images", "."))],
)
@pytest.mark.parametrize("lost", [0, 1])
def test_force_does_not_replace_what_is_read(invoke, files, command, options, lost):
    before = files[lost].read_bytes()
    result = invoke(command, *files, *options, "--out", files[lost], "--force")
    assert result.exit_code == 2
    assert f"{files[lost]}: is read by this command and would be lost" in result.stderr
    assert files[lost].read_bytes() == before


def test_force_does_not_replace_detections_called_as_a_report_is(invoke, files, tmp_path):
    """``test`` writes metrics.json, and nothing kept a file of detections from being called so."""
    named = files[1].rename(tmp_path / "metrics.json")
    for arguments in (("run", files[0], named), ("compare", files[0], named, named)):
        own = named if arguments[0] == "run" else named.rename(tmp_path / "comparison.json")
        arguments = tuple(own if each == named else each for each in arguments)
        result = invoke(*arguments, "--out", tmp_path, "--force")
        assert (result.exit_code, "is read by this command" in result.stderr) == (2, True)


def test_submission_takes_a_classifiers_probabilities(invoke, files, tmp_path):
    given = write(tmp_path / "p.json", {"i1": 0.75, "i2": 0.5})
    invoke("submission", *files, "--out", tmp_path / "s.csv", "--p-abnormal", given)
    lines = (tmp_path / "s.csv").read_text().splitlines()
    assert lines[1].endswith(" 14 0.25 0 0 1 1")
    assert lines[2].endswith(" 14 0.5 0 0 1 1")


def test_what_a_gate_left_beside_the_detections_is_used_unless_another_file_is_named(invoke, files, tmp_path):
    write(tmp_path / "detections.p_abnormal.json", {"i1": 0.75, "i2": 0.5})
    other = write(tmp_path / "p.json", {"i1": 0.25, "i2": 0.5})
    for option, score in (((), "0.25"), (("--p-abnormal", other), "0.75")):
        invoke("submission", *files, "--out", tmp_path / "s.csv", "--force", *option)
        assert (tmp_path / "s.csv").read_text().splitlines()[1].endswith(f" 14 {score} 0 0 1 1")
    invoke("run", *files, "--resamples", 0, "--out", tmp_path / "report")
    assert json.loads((tmp_path / "report" / "metrics.json").read_text())["p_abnormal"] == "given"
    write(tmp_path / "detections.p_abnormal.json", {"i1": 0.75})
    result = invoke("run", *files)
    assert result.exit_code == 1
    assert "detections.p_abnormal.json: lacks p_abnormal of 1 of 2 images, such as 'i2'" in result.stderr


def test_a_submission_that_is_damaged_is_one_sentence(invoke, files, tmp_path):
    broken = tmp_path / "broken.csv"
    broken.write_text("image_id,PredictionString\ni1,0 0.5 1 2 3\n")
    result = invoke("run", files[0], broken)
    assert result.exit_code == 1
    assert "broken.csv, line 2: the prediction string holds 5 words" in result.stderr


def test_thresholds_for_a_sensitivity_and_for_false_positives(invoke, files, tmp_path):
    result = invoke("thresholds", *files, "--sensitivity", 1, "--out", tmp_path / "t.json")
    assert result.exit_code == 0
    row = next(line.split() for line in result.stdout.splitlines() if "Aortic enlargement" in line)
    assert row[2:] == ["0.600", "1.000", "0.500"]
    content = json.loads((tmp_path / "t.json").read_text())
    assert content["thresholds"][0] == {
        "name": "Aortic enlargement",
        "score": 0.6,
        "sensitivity": 1.0,
        "false_positives": 0.5,
    }
    assert content["thresholds"][1]["score"] is None
    strict = invoke("thresholds", *files, "--fp-rate", 0.1)
    assert next(line.split() for line in strict.stdout.splitlines() if "Aortic" in line)[2:] == ["n/a", "n/a", "n/a"]


@pytest.mark.parametrize("goal", [(), ("--sensitivity", 0.5, "--fp-rate", 1)])
def test_thresholds_need_one_goal(invoke, files, goal):
    result = invoke("thresholds", *files, *goal)
    assert result.exit_code == 2
    assert "pass one of --sensitivity and --fp-rate" in result.stderr
