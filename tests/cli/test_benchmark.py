import json

import pytest
from typer.testing import CliRunner

from benchmarks.cli import app

SMALL = "train_dataloader.dataset.pipeline.2.scales=[(133,64),(133,72)]"


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "80"})


def test_pipeline_prints_tables_that_fit_a_terminal(prepared_folder):
    result = run("pipeline", prepared_folder(), "--rounds", 2, "--images", 2, "--memory", "--cfg-options", SMALL)
    assert result.exit_code == 0, result.output
    for words in ("From file to sample: ms per image, 2 rounds", "From file to model input", "Where the time goes"):
        assert words in result.stdout
    assert result.stdout.count("1.00x") >= 2
    tables, _, machine = result.stdout.rstrip().rpartition("\n")
    assert max(map(len, tables.splitlines())) <= 80
    assert "…" not in tables
    assert "torch " in machine


def test_pipeline_as_json(prepared_folder):
    result = run("pipeline", prepared_folder(), "--rounds", 2, "--images", 1, "--json", "--cfg-options", SMALL)
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert [len(comparison["alternatives"][1]["cpu_s"]) for comparison in report["comparisons"]] == [2, 2]
    assert {"step", "stock_s", "ours_s"} == set(report["steps"][0])
    assert report["machine"]["torch"].startswith("torch ")


@pytest.mark.parametrize(
    ("arguments", "exit_code", "message"),
    [
        ((), 2, "Usage"),
        (("nowhere",), 2, "does not exist"),
        (("DATA", "--config", "retina_5cls"), 2, "MinorityFlipRot90 has no counterpart in stock mmdet"),
        (("DATA", "--config", "retina_15cls"), 2, "no such config"),
        (("DATA", "--ann-file", "annotations/train_9.json"), 1, "no such file"),
        (("DATA", "--rounds", "0"), 2, "--rounds"),
    ],
)
def test_bad_input_of_pipeline_is_one_sentence(prepared_folder, arguments, exit_code, message):
    root = str(prepared_folder())
    result = run("pipeline", *(root if argument == "DATA" else argument for argument in arguments))
    assert result.exit_code == exit_code
    assert message in result.output
    assert "Traceback" not in result.output


def test_train_step_as_json():
    result = run("train-step", "retina_phantom", "--size", 64, "--batch-size", 2, "--rounds", 1, "--json")
    assert result.exit_code == 0, result.output
    (comparison,) = json.loads(result.stdout)["comparisons"]
    assert comparison["title"] == "Training iteration of retina_phantom, 2 x 64 px"
    assert [entry["name"] for entry in comparison["alternatives"]] == ["stock mmdet", "cxr_mmdet"]


def test_train_step_takes_several_recipes_and_options():
    result = run(
        "train-step", "retina_phantom", "retina_lungs", "--size", 64, "--batch-size", 2, "--rounds", 1, "--memory"
    )
    assert result.exit_code == 0, result.output
    assert "Training iteration of retina_phantom" in result.stdout
    assert "Training iteration of retina_lungs" in result.stdout
    assert "peak MB" in result.stdout


def test_train_step_of_an_unknown_recipe():
    result = run("train-step", "retina_5cl", "--rounds", 1)
    assert result.exit_code == 2
    assert "retina_5cls" in result.output


def test_evaluate_prints_a_table_and_what_the_intervals_cost():
    result = run("evaluate", "--images", 20, "--detections", 5, "--rounds", 1, "--resamples", 3, "--memory")
    assert result.exit_code == 0, result.output
    for words in ("COCO, 20 images with 5 detections each", "pycocotools", "hotcoco", "with 3 resamples"):
        assert words in result.stdout


def test_evaluate_as_json():
    result = run("evaluate", "--images", 20, "--detections", 5, "--rounds", 2, "--resamples", 3, "--json")
    report = json.loads(result.stdout)
    assert report["headline"]["resamples"] == 3
    assert len(report["comparisons"][0]["alternatives"][2]["cpu_s"]) == 2
