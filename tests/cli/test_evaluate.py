import io
import json
import re

import cv2
import numpy as np
import pytest
from evaluate_cases import HIT, make_detection, make_ground_truth, run_evaluate, write
from rich.console import Console

from cxr_mmdet.evaluation.evaluate import evaluate
from cxr_mmdet.evaluation.terminal import metrics_table, threshold_table
from cxr_mmdet.structures.labels import LABELS_14


@pytest.fixture
def invoke():
    return run_evaluate


@pytest.fixture
def files(tmp_path):
    return write(tmp_path / "val.json", make_ground_truth()), write(tmp_path / "detections.json", [make_detection()])


def test_prints_the_table_and_writes_metrics(invoke, files, tmp_path):
    result = invoke("run", *files, "--out", tmp_path / "out")
    assert result.exit_code == 0
    assert result.stdout.splitlines()[0].strip() == "mAP@[.5:.95] 0.400   mAP@.5 1.000   (2 images)"
    first_table = result.stdout.partition("mean of findings")[0]
    rows = {line.split("  ")[1]: line.split() for line in first_table.splitlines() if line.startswith("  ")}
    assert rows["Aortic enlargement"][2:] == ["0.400", "1.000", "0.000", "1", "1"]
    assert rows["Pulmonary fibrosis"][2:] == ["n/a", "n/a", "n/a", "0", "0"]
    assert "metrics.json" not in result.stdout
    assert "metrics.json" in result.stderr
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics == evaluate(make_ground_truth(), [make_detection()]).to_metrics()


def test_run_is_what_is_done_without_a_verb(invoke, files, tmp_path):
    plain = invoke(*files, "--resamples", 20)
    assert plain.exit_code == 0
    assert plain.stdout == invoke("run", *files, "--resamples", 20).stdout
    assert invoke("comprae", *files).exit_code == 2


def test_writes_nothing_without_out(invoke, files, tmp_path):
    before = sorted(tmp_path.iterdir())
    assert invoke("run", *files).exit_code == 0
    assert sorted(tmp_path.iterdir()) == before


def test_same_input_same_bytes(invoke, files, tmp_path):
    for name in ("a", "b"):
        invoke("run", *files, "--out", tmp_path / name)
    assert (tmp_path / "a" / "metrics.json").read_bytes() == (tmp_path / "b" / "metrics.json").read_bytes()


def test_refuses_to_overwrite_without_force(invoke, files, tmp_path):
    target = write(tmp_path / "metrics.json", "mine")
    refused = invoke("run", *files, "--out", tmp_path)
    assert refused.exit_code == 2
    assert "pass --force" in refused.stderr
    assert json.loads(target.read_text()) == "mine"
    assert invoke("run", *files, "--out", tmp_path, "--force").exit_code == 0
    assert json.loads(target.read_text())["mean_ap"] == pytest.approx(0.4)


def test_no_detections_are_a_legal_zero(invoke, files, tmp_path):
    result = invoke("run", files[0], write(tmp_path / "none.json", []))
    assert result.exit_code == 0
    assert "mAP@[.5:.95] 0.000" in result.stdout


@pytest.mark.parametrize(
    ("ground_truth", "detections", "message"),
    [
        (make_ground_truth(), {}, "expected a list of COCO results"),
        (make_ground_truth(), [make_detection(image_id=7)], "entry 0: image_id 7 is not among the ground truth's"),
        (make_ground_truth(), [make_detection(score=2)], "score 2 of image 1 is not a number in 0…1"),
        (make_ground_truth(boxes=()), [], "holds no boxes, so there is nothing to score against"),
        ([], [], "expected a COCO object"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_1(invoke, tmp_path, ground_truth, detections, message):
    paths = write(tmp_path / "val.json", ground_truth), write(tmp_path / "detections.json", detections)
    result = invoke("run", *paths, "--out", tmp_path / "out")
    assert result.exit_code == 1
    assert result.stderr.startswith("error: ")
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""
    assert not (tmp_path / "out").exists()


def test_a_missing_file_is_a_usage_error(invoke, files, tmp_path):
    result = invoke("run", files[0], tmp_path / "gone.json")
    assert result.exit_code == 2
    assert "gone.json" in re.sub(r"[\s│]", "", result.stderr)  # the message is broken into lines wherever it is full


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for image_id in (1, 2):
        cv2.imwrite(str(folder / f"{image_id}.png"), np.full((80, 100), 60, np.uint8))
    return folder


def test_gallery_writes_one_page_and_names_it(invoke, files, images, tmp_path):
    page = tmp_path / "page.html"
    command = ("gallery", *files, "--images", images, "--out", page, "--title", "Trial")
    result = invoke(*command)
    assert (result.exit_code, result.stdout.strip()) == (0, str(page))
    assert "<h1>Trial</h1>" in page.read_text(encoding="utf-8")
    assert invoke(*command).exit_code == 2
    assert invoke(*command, "--force").exit_code == 0


def test_gallery_names_the_image_it_misses(invoke, files, images, tmp_path):
    (images / "2.png").unlink()
    result = invoke("gallery", *files, "--images", images, "--out", tmp_path / "page.html")
    assert result.exit_code == 1
    assert "2.png: cannot be read" in result.stderr


def test_table_fits_80_columns_with_whole_names():
    console = Console(width=80, record=True, file=io.StringIO())
    result = evaluate(make_ground_truth(), [make_detection()], resamples=0)
    for table in (metrics_table(result.coco), threshold_table(result)):
        console.print(table)
        text = console.export_text()
        assert all(name in text for name in LABELS_14)
        assert any(name in text for name in ("mean of findings", "all findings"))


def test_the_operating_point_of_a_threshold_and_an_iou(invoke, files, tmp_path):
    options = ("--score-threshold", 0.25, "--iou", 0.7, "--resamples", 0)
    result = invoke("run", *files, *options, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "At score 0.250 and above, IoU above 0.7   mAP@.7 0.000" in result.stdout
    row = next(line.split() for line in result.stdout.splitlines() if line.startswith("  all findings"))
    assert row[2:] == ["0.000", "0.000", "0.000", "0", "1", "1"]
    point = json.loads((tmp_path / "out" / "metrics.json").read_text())["operating_point"]
    assert (point["precision"], point["recall"], point["voc_mean_ap"]) == (0.0, 0.0, 0.0)
    assert "At the operating threshold" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    hit = invoke("run", *files, "--score-threshold", 0.25, "--resamples", 0)
    row = next(line.split() for line in hit.stdout.splitlines() if line.startswith("  all findings"))
    assert row[2:] == ["1.000", "1.000", "1.000", "1", "0", "0"]


def test_run_writes_a_report_with_the_images_of_the_prepared_folder(invoke, tmp_path, images):
    folder = tmp_path / "annotations"
    folder.mkdir()
    truth = write(folder / "val_14.json", make_ground_truth(((1, 1, HIT), (2, 2, HIT))))
    scores = tmp_path / "scores"
    scores.mkdir()
    (scores / "recipe.py").write_text("lr = 0.5\ntest_evaluator = dict(type='CxrMetric')\n")
    (scores / "notes.py").write_text("SECRET = 1\n")
    found = write(scores / "detections.json", [make_detection(HIT)])
    result = invoke("run", truth, found, "--out", tmp_path / "out", "--title", "Trial", "--resamples", 20)
    assert result.exit_code == 0, result.output
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "<h1>Trial</h1>" in page
    assert "Ground truth: Atelectasis" in page
    assert "scores/recipe.py" in page
    assert "lr = 0.5" in page
    assert "SECRET" not in page
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["intervals"]["resamples"] == 20


def test_run_shows_the_readers_of_the_manifest(invoke, files, tmp_path):
    measure = {"value": 0.8, "low": 0.7, "high": 0.9}
    measures = dict.fromkeys(("voc_mean_ap_40", "mean_ap_50", "mean_ap"), measure)
    ceiling = {"images": 2, "readers": {"R1": {"images": 2, **measures}}, **measures, "per_class": []}
    label_set = {"labels": list(LABELS_14), "human_ceiling": {"all": ceiling, "train": None, "val": ceiling}}
    manifest = write(tmp_path / "manifest.json", {"label_sets": {"14": label_set}})
    truth = files[0].rename(tmp_path / "val_14.json")
    result = invoke("run", truth, files[1], "--manifest", manifest, "--resamples", 0)
    row = next(line.split() for line in result.stdout.splitlines() if line.startswith("  mAP@[.5:.95]"))
    assert row[1:] == ["0.400", "0.800", "50", "%"]


def test_a_missing_image_writes_nothing(invoke, files, images, tmp_path):
    (images / "1.png").unlink()
    weak = write(tmp_path / "weak.json", [make_detection([60, 20, 9, 9])])
    result = invoke("run", files[0], weak, "--images", images, "--out", tmp_path / "out", "--resamples", 0)
    assert result.exit_code == 1
    assert "1.png: cannot be read" in result.stderr
    assert not (tmp_path / "out").exists()


def test_odd_results_are_noted_and_no_operating_threshold_is_said_in_words(invoke, tmp_path):
    alarms = [make_detection([100, 100, 9, 9], score=score) for score in (0.9, 0.8, 0.7)]
    found = [*alarms, make_detection([5, 5, 4, 0], score=0.6), make_detection(HIT, score=0.001)]
    truth, results = write(tmp_path / "gt.json", make_ground_truth()), write(tmp_path / "d.json", found)
    result = invoke("run", truth, results, "--resamples", 0)
    assert result.exit_code == 0, result.output
    assert "1 of 5 detections without width or height" in result.stderr
    assert "Operating threshold: none" in result.stdout
