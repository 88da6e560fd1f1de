import json
import sys

import pytest

from benchmarks.contestant import Contestant
from benchmarks.folds import Part
from benchmarks.quality import run_quality, yolo_settings
from benchmarks.quality_report import read_runs
from benchmarks.yolo import as_detections
from cxr_mmdet.errors import CxrError, UsageError
from cxr_mmdet.evaluation.headline import point_values
from cxr_mmdet.structures.coco import read_coco

FAKE = """
import json, pathlib, sys
spec = json.loads(pathlib.Path(sys.argv[2]).read_text())
out = pathlib.Path(spec["out"])
found = []
for image in spec["images"]:
    label = out / "data" / "val" / "labels" / (pathlib.Path(image).stem + ".txt")
    rows = [list(map(float, line.split())) for line in label.read_text().splitlines()]
    width, height = SIZES[pathlib.Path(image).name]
    found.append([
        [(x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height, 0.9, number]
        for number, x, y, w, h in rows
    ])
(out / "boxes.json").write_text(json.dumps(found))
count = spec.get("stop_after") or spec["iterations"]
(out / "clock.json").write_text(json.dumps({"iterations": [0.5] * count, "curve": []}))
"""
"""A trainer that finds what the data set's label files hold, at half a second per iteration."""


@pytest.fixture
def fake_python(tmp_path):
    """Return a function that makes an interpreter out of what it runs in place of the script."""

    def build(code):
        (tmp_path / "fake.py").write_text(code)
        path = tmp_path / "python"
        path.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "{tmp_path}/fake.py" "$@"\n')
        path.chmod(0o755)
        return path

    return build


def settings(python, *options):
    return yolo_settings([Contestant.parse("retina_small")], python, 1, [], options)


def test_a_yolo_trains_for_the_minutes_in_its_own_environment(prepared_folder, tmp_path, fake_python):
    root, out = prepared_folder(val=5), tmp_path / "out"
    truth = read_coco(root / "annotations/val_5.json")
    sizes = {image["file_name"]: [image["width"], image["height"]] for image in truth["images"]}
    own = settings(fake_python(f"SIZES = {sizes}\n{FAKE}"), "optimizer=SGD", "lr0=0.1")
    assert (own.size, own.batch_size, own.options) == (256, 4, {"optimizer": "SGD", "lr0": 0.1})
    options = {"minutes": 0.25, "seeds": [4], "threads": 1, "yolo": own}
    (run,) = run_quality([Contestant.parse("yolo11n")], [Part(root)], out, **options)
    assert run.iterations == 30  # 15 s at half a second each
    assert run.cpu_s == pytest.approx(15)
    spec = json.loads((run.folder(out) / "spec.json").read_text())
    assert (spec["model"], spec["train"]["seed"], spec["train"]["pretrained"]) == ("yolo11n.yaml", 4, False)
    assert (spec["train"]["optimizer"], spec["batches_per_epoch"]) == ("SGD", 2)
    ((_, matched),) = read_runs([run], root, out)["yolo11n"]
    assert point_values(matched)["mean_ap_75"] == pytest.approx(1.0)


def test_empty_boxes_and_classes_of_other_numbers_are_read():
    coco = {"images": [{"id": 7}, {"id": 9}], "categories": [{"id": 3}, {"id": 5}], "annotations": []}
    boxes = [[[1.0, 2.0, 1.0, 8.0, 0.9, 0.0]], [[1.0, 2.0, 4.0, 8.0, 0.8, 1.0]]]
    assert as_detections(boxes, coco) == [{"image_id": 9, "category_id": 5, "bbox": [1.0, 2.0, 3.0, 6.0], "score": 0.8}]


def test_an_environment_without_ultralytics_is_named(prepared_folder, tmp_path, fake_python):
    options = {"minutes": 0.1, "seeds": [0], "threads": 1, "yolo": settings(fake_python("import ultralytics_no"))}
    with pytest.raises(CxrError, match=r"log\.txt: ultralytics ended with exit code 1; .* --yolo-python"):
        run_quality([Contestant.parse("yolo26n")], [Part(prepared_folder())], tmp_path / "out", **options)


@pytest.mark.parametrize(
    ("iterations", "python", "remedy"), [(None, None, "--yolo-python"), (5, "python", "--minutes in place")]
)
def test_a_yolo_needs_its_environment_and_minutes(tmp_path, iterations, python, remedy):
    own = settings(python and tmp_path / python)
    options = {"minutes": 1, "iterations": iterations, "seeds": [0], "threads": 1, "yolo": own}
    with pytest.raises(UsageError, match=remedy):
        run_quality([Contestant.parse("yolo11n")], [Part(tmp_path)], tmp_path, **options)


def test_an_option_without_a_value_is_refused(tmp_path):
    with pytest.raises(UsageError, match="--yolo-option batch: expected KEY=VALUE"):
        settings(tmp_path, "batch")
