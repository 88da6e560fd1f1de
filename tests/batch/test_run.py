"""Many radiographs: bad files, resuming, a full disk, several processes."""

from __future__ import annotations

import csv
import json
import os
import resource
import signal
import subprocess
import sys
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import write_jpeg2000
from detectors import bundle_of, make_image, write_image
from pydicom.data import get_testdata_file
from training_runs import free_port
from typer.testing import CliRunner

from cxr_mmdet.batch.run import RunOptions, predict_many
from cxr_mmdet.cli import predict
from cxr_mmdet.errors import CxrError, DatasetError, NotFiniteError, UsageError
from cxr_mmdet.inference.predictor import Thresholds
from cxr_mmdet.structures.coco import read_detections
from cxr_mmdet.structures.detections import Detections, Findings
from cxr_mmdet.structures.radiograph_files import find_radiographs

ROOT = Path(__file__).resolve().parents[2]


class OneBox:
    """A predictor that finds the upper left quarter, more surely the brighter the image is."""

    class_names = ("ILD", "Nodule/Mass")
    has_gate = False
    score_threshold = 0.05
    workers = 1
    min_short_edge = None

    def __init__(self, model_id="one-box", stop_after=None):
        self.model_id = model_id
        self.calls = 0
        self.shapes = []
        self.stop_after = stop_after

    def check(self, thresholds):
        thresholds.check(self.class_names)

    def predict_radiographs(self, radiographs, thresholds, augmentation=None):
        found = []
        for radiograph in radiographs:
            if self.calls == self.stop_after:
                raise KeyboardInterrupt
            self.calls += 1
            self.shapes.append(radiograph.pixels.shape)
            height, width = radiograph.size_hw
            score = float(radiograph.pixels.mean() / 255)
            boxes, labels, scores = ([[0, 0, width / 2, height / 2]], [1], [score]) if score > 0.1 else ([], [], [])
            detections = Detections(boxes, labels, scores, self.class_names)
            found.append(Findings.of(detections, size_hw=(height, width), model_id=self.model_id))
        return found


@pytest.fixture
def images(tmp_path):
    for seed in range(5):
        write_image(tmp_path / "in" / f"p{seed}.png", 40 + seed, 30, seed)
    return tmp_path / "in"


def run(images, out, predictor=None, **options):
    return predict_many(predictor or OneBox(), find_radiographs([str(images)]), out, RunOptions(**options))


def read_csv(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_files(images, tmp_path):
    write_image(images / "dark.png", 10, 10)
    import cv2

    cv2.imwrite(str(images / "dark.png"), np.zeros((10, 10), np.uint8))
    summary = run(images, tmp_path / "out", overlays=True)
    assert (summary.images, summary.findings, summary.reused, summary.failures) == (6, 5, 0, {})
    findings = json.loads((tmp_path / "out" / "findings.json").read_text())
    assert findings["labels"] == ["ILD", "Nodule/Mass"]
    assert [image["image_id"] for image in findings["images"]] == ["dark", "p0", "p1", "p2", "p3", "p4"]
    assert findings["images"][0]["findings"] == []
    assert findings["images"][2]["findings"][0]["box_xyxy"] == [0, 0, 15, 20.5]
    truth = {
        "images": [{"id": number} for number in range(1, 7)],
        "categories": [{"id": 1, "name": "ILD"}, {"id": 2, "name": "Nodule/Mass"}],
        "annotations": [],
    }
    detections = read_detections(tmp_path / "out" / "detections.json", truth)
    assert [entry["image_id"] for entry in detections] == [2, 3, 4, 5, 6]
    assert {entry["category_id"] for entry in detections} == {2}
    rows = read_csv(tmp_path / "out" / "findings.csv")
    assert [row["class_name"] for row in rows] == ["No finding"] + ["Nodule/Mass"] * 5
    assert sorted(path.stem for path in (tmp_path / "out" / "overlays").iterdir()) == sorted(
        ["dark", "p0", "p1", "p2", "p3", "p4"]
    )
    assert not (tmp_path / "out" / "failures.csv").exists()


def test_a_file_is_parsed_and_decoded_once(tmp_path, reads):
    for seed in range(3):
        write_image(tmp_path / "in" / f"p{seed}.png", 40, 30, seed)
    (tmp_path / "in" / "d.dcm").write_bytes(Path(get_testdata_file("CT_small.dcm")).read_bytes())
    assert run(tmp_path / "in", tmp_path / "out", overlays=True).images == 4
    assert reads == {"parsed": 1, "decoded": 4}


@pytest.mark.parametrize(
    ("edge", "options", "expected"),
    [
        (None, {}, (200, 160)),
        (40, {}, (50, 40)),
        (40, {"overlays": True, "overlay_size": 64}, (100, 80)),
        (40, {"overlays": True, "overlay_size": 0}, (200, 160)),
    ],
)
def test_network_and_overlay_decide_how_large_jpeg2000_is_decoded(tmp_path, edge, options, expected):
    path = write_jpeg2000(tmp_path / "in" / "a.dcm", make_image(200, 160, seed=1))
    predictor = OneBox()
    predictor.min_short_edge = edge
    run(path.parent, tmp_path / "out", predictor, **options)
    assert predictor.shapes == [expected]
    found = json.loads((tmp_path / "out" / "findings.json").read_text())
    assert found["settings"].get("reduced") == (True if edge else None)
    assert found["images"][0]["findings"][0]["box_xyxy"] == [0, 0, 80, 100]
    if options:
        side = options["overlay_size"] or 200
        assert max(cv2.imread(str(tmp_path / "out" / "overlays" / "a.png")).shape) == side


def test_a_bad_file_among_good_ones(images, tmp_path):
    (images / "p2.png").write_bytes((images / "p2.png").read_bytes()[:60])
    summary = run(images, tmp_path / "out", batch_size=2)
    assert summary.images == 4
    assert list(summary.failures) == ["p2"]
    (row,) = read_csv(tmp_path / "out" / "failures.csv")
    assert row["image_id"] == "p2"
    assert "damaged PNG" in row["reason"]
    write_image(images / "p2.png")
    predictor = OneBox()
    repaired = run(images, tmp_path / "out", predictor)
    assert (repaired.images, repaired.reused, predictor.calls) == (5, 4, 1)
    assert not (tmp_path / "out" / "failures.csv").exists()


class Meeting(OneBox):
    """Predicts only while as many others do."""

    workers = 3

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.barrier = threading.Barrier(3)

    def predict_radiographs(self, radiographs, thresholds, augmentation=None):
        self.barrier.wait(20)
        return super().predict_radiographs(radiographs, thresholds, augmentation)


@pytest.mark.parametrize("batch_size", [1, 2])
def test_several_are_predicted_at_once_and_written_in_order(images, tmp_path, batch_size):
    for seed in range(5, 6 * batch_size):
        write_image(images / f"q{seed}.png", 40 + seed, 30, seed)
    assert run(images, tmp_path / "out", Meeting(), overlays=True, batch_size=batch_size).images == 6 * batch_size
    run(images, tmp_path / "alone", overlays=True)
    for name in ("findings.json", "detections.json", "findings.csv", "overlays/p3.png"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "alone" / name).read_bytes()


def test_what_is_under_way_is_kept_when_it_is_interrupted(images, tmp_path):
    class Interrupted(Meeting):
        def predict_radiographs(self, radiographs, thresholds, augmentation=None):
            found = super().predict_radiographs(radiographs, thresholds, augmentation)
            if radiographs[0].size_hw[0] == 40:
                raise KeyboardInterrupt
            return found

    for extra in ("p3.png", "p4.png"):
        (images / extra).unlink()
    with pytest.raises(KeyboardInterrupt):
        run(images, tmp_path / "out", Interrupted())
    assert run(images, tmp_path / "out").reused == 2


class NotFiniteWhereDark(OneBox):
    def predict_radiographs(self, radiographs, thresholds, augmentation=None):
        if min(radiograph.pixels.mean() for radiograph in radiographs) < 30:
            raise NotFiniteError
        return super().predict_radiographs(radiographs, thresholds, augmentation)


@pytest.mark.parametrize("batch_size", [1, 4])
def test_a_radiograph_of_which_the_network_says_nothing_finite_fails_alone(images, tmp_path, batch_size):
    """It was written down as a normal chest."""
    cv2.imwrite(str(images / "p1-dark.png"), np.full((40, 30), 9, dtype=np.uint8))
    done = run(images, tmp_path / "out", NotFiniteWhereDark(), batch_size=batch_size)
    assert done.images == 5
    (row,) = read_csv(tmp_path / "out" / "failures.csv")
    assert row["image_id"] == "p1-dark"
    assert row["reason"].startswith(f"{images / 'p1-dark.png'}: the model's outputs are not finite numbers")
    assert "p1-dark" not in (tmp_path / "out" / "findings.json").read_text()


def test_only_bad_files(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "bad.png").write_text("hello")
    summary = run(tmp_path / "in", tmp_path / "out")
    assert (summary.images, len(summary.failures)) == (0, 1)
    assert json.loads((tmp_path / "out" / "detections.json").read_text()) == []
    assert json.loads((tmp_path / "out" / "findings.json").read_text())["images"] == []


def test_interrupted_and_gone_on_with(images, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(images, tmp_path / "out", OneBox(stop_after=3))
    predictor = OneBox()
    summary = run(images, tmp_path / "out", predictor)
    assert (summary.reused, predictor.calls) == (3, 2)
    run(images, tmp_path / "whole")
    for name in ("findings.json", "detections.json", "findings.csv"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_line_that_a_kill_left_half_written(images, tmp_path):
    run(images, tmp_path / "out")
    log = tmp_path / "out" / ".progress" / "rank-0.jsonl"
    log.write_bytes(log.read_bytes()[:-25])
    predictor = OneBox()
    assert run(images, tmp_path / "out", predictor).reused == 4
    assert predictor.calls == 1
    assert run(images, tmp_path / "out", OneBox()).reused == 5


def test_two_runs_at_once_are_refused(images, tmp_path):
    class Twice(OneBox):
        def predict_radiographs(self, radiographs, thresholds, augmentation=None):
            for force in (False, True):
                with pytest.raises(UsageError, match="in use by another process; wait for it, or choose another --out"):
                    run(images, tmp_path / "out", force=force)
            return super().predict_radiographs(radiographs, thresholds, augmentation)

    assert run(images, tmp_path / "out", Twice()).images == 5


def test_what_another_command_wrote_is_not_replaced(images, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "detections.json").write_text("of tools/test.py")
    with pytest.raises(UsageError, match=r"detections\.json: exists, and no prediction wrote it; .* --force"):
        run(images, tmp_path / "out")
    assert (tmp_path / "out" / "detections.json").read_text() == "of tools/test.py"
    drawing = tmp_path / "out" / "overlays" / "mine.png"
    drawing.parent.mkdir()
    drawing.write_bytes(b"mine")
    assert run(images, tmp_path / "out", force=True).images == 5
    assert drawing.read_bytes() == b"mine"
    assert run(images, tmp_path / "out").reused == 5


def test_images_of_the_annotation_file_without_a_radiograph_fail(images, tmp_path):
    """Scoring took them for images on which nothing was found."""
    truth = {
        "images": [
            {"id": number, "file_name": f"{name}.png", "height": 40, "width": 30}
            for number, name in enumerate(("p1", "gone", "p3", "lost"), 1)
        ],
        "categories": [{"id": 1, "name": "ILD"}, {"id": 2, "name": "Nodule/Mass"}],
        "annotations": [],
    }
    (tmp_path / "val.json").write_text(json.dumps(truth))
    summary = run(images, tmp_path / "out", coco=tmp_path / "val.json")
    assert (summary.images, list(summary.failures)) == (2, ["gone", "lost"])
    rows = read_csv(tmp_path / "out" / "failures.csv")
    assert [row["image_id"] for row in rows] == ["gone", "lost"]
    assert rows[0]["reason"] == f"{tmp_path / 'val.json'}: names image gone, but no radiograph of this name is given"


def test_an_image_of_the_annotation_file_is_one_radiograph(images, tmp_path):
    """The first of two with its name was scored, and one that a number had given the name in place of its own file."""
    write_image(images / "more" / "p1.png", 40, 30)  # p1-2
    write_image(images / "zoo" / "p1-2.png", 60, 50)
    truth = {
        "images": [{"id": 7, "file_name": "p1-2.png", "height": 60, "width": 50}],
        "categories": [{"id": 1, "name": "ILD"}, {"id": 2, "name": "Nodule/Mass"}],
        "annotations": [],
    }
    (tmp_path / "val.json").write_text(json.dumps(truth))
    assert run(images, tmp_path / "out", coco=tmp_path / "val.json").images == 1
    (found,) = json.loads((tmp_path / "out" / "findings.json").read_text())["images"]
    assert (found["image_id"], found["height"], Path(found["source"]).parent.name) == ("p1-2", 60, "zoo")
    (tmp_path / "val.json").write_text(json.dumps(truth).replace("p1-2.png", "p1.png"))
    message = r"more/p1\.png and .*p1\.png are both the image of .*val\.json with id 7"
    with pytest.raises(DatasetError, match=message):
        run(images, tmp_path / "other", coco=tmp_path / "val.json")


def test_a_changed_image_is_predicted_again(images, tmp_path):
    run(images, tmp_path / "out")
    write_image(images / "p1.png", 80, 60, 9)
    predictor = OneBox()
    assert run(images, tmp_path / "out", predictor).images == 5
    assert predictor.calls == 1
    images = json.loads((tmp_path / "out" / "findings.json").read_text())["images"]
    assert (images[1]["height"], images[1]["width"]) == (80, 60)


def test_an_overlay_score_that_could_show_nothing_more_is_refused(images, tmp_path):
    with pytest.raises(UsageError, match=r"own score threshold of 0\.05, .* add --score-threshold 0\.01"):
        run(images, tmp_path / "out", overlays=True, overlay_score=0.01)
    assert not (tmp_path / "out").exists()
    run(images, tmp_path / "out", overlays=True, overlay_score=0.01, thresholds=Thresholds(0.01))


def test_overlays_asked_for_later(images, tmp_path):
    run(images, tmp_path / "out")
    assert run(images, tmp_path / "out", overlays=True).images == 5
    assert len(list((tmp_path / "out" / "overlays").iterdir())) == 5


def test_overlays_are_drawn_anew_for_another_score(images, tmp_path):
    def overlays():
        return [path.read_bytes() for path in sorted((tmp_path / "out" / "overlays").iterdir())]

    run(images, tmp_path / "out", overlays=True)
    before = overlays()
    assert run(images, tmp_path / "out", overlays=True).reused == 5
    assert run(images, tmp_path / "out", overlays=True, overlay_score=0.99).reused == 0
    assert all(new != old for new, old in zip(overlays(), before, strict=True))


def test_results_of_another_model_or_setting_are_not_mixed(images, tmp_path):
    run(images, tmp_path / "out")
    for predictor, options in ((OneBox("other"), {}), (OneBox(), {"thresholds": Thresholds(score=0.2)})):
        with pytest.raises(UsageError, match="another model or of other settings"):
            run(images, tmp_path / "out", predictor, **options)
    predictor = OneBox("other")
    assert run(images, tmp_path / "out", predictor, force=True).reused == 0
    assert predictor.calls == 5


def test_a_replacement_that_is_killed_leaves_no_results_of_the_model_before(images, tmp_path):
    """They stood beside the progress of the other, and a submission was written of them."""
    run(images, tmp_path / "out", overlays=True)
    (tmp_path / "out" / "detections.p_abnormal.json").write_text("{}")  # as of a gate
    (tmp_path / "out" / "notes.txt").write_text("mine")
    with pytest.raises(KeyboardInterrupt):
        run(images, tmp_path / "out", OneBox("other", stop_after=1), force=True)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [".progress", "notes.txt"]


def test_lines_without_settings_are_no_results(images, tmp_path):
    """A --force that was killed while it removed the journal could leave them for the next model to take over."""
    run(images, tmp_path / "out")
    (tmp_path / "out" / ".progress" / "settings.json").unlink()
    assert run(images, tmp_path / "out", OneBox("other")).reused == 0


def test_numbers_and_pixels_of_a_prepared_folder(prepared_folder, tmp_path):
    root = prepared_folder()
    annotations = root / "annotations" / "val_5.json"
    truth = json.loads(annotations.read_text())
    predictor = OneBox()
    predictor.class_names = ("Nodule/Mass", "ILD")
    summary = run(root / "images", tmp_path / "out", predictor, coco=annotations)
    assert summary.images == len(truth["images"])
    detections = read_detections(tmp_path / "out" / "detections.json", truth)
    names = {category["id"]: category["name"] for category in truth["categories"]}
    assert {names[entry["category_id"]] for entry in detections} == {"ILD"}
    sizes = {image["id"]: image["width"] for image in truth["images"]}
    assert all(entry["bbox"][2] == sizes[entry["image_id"]] / 2 for entry in detections)


def test_a_prepared_folder_of_other_images(images, prepared_folder, tmp_path):
    predictor = OneBox()
    with pytest.raises(CxrError, match="none of its images is among the inputs"):
        run(images, tmp_path / "out", predictor, coco=prepared_folder() / "annotations" / "val_5.json")


def test_a_folder_of_results_that_cannot_be_made(images, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CxrError, match=r"cannot be made \(Not a directory\); choose another --out"):
        run(images, tmp_path / "file" / "out")


def test_a_disk_that_fills_up(images, tmp_path):
    """Files may not grow beyond a few lines: as on a full disk, writing fails in the middle."""
    run(images, tmp_path / "probe")
    line = (tmp_path / "probe" / ".progress" / "rank-0.jsonl").stat().st_size // 5
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (3 * line + line // 2, before[1]))
        with pytest.raises(CxrError, match=r"rank-0\.jsonl: cannot be written .* what is finished is kept"):
            run(images, tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    summary = run(images, tmp_path / "out")
    assert (summary.images, summary.reused) == (5, 3)


@pytest.mark.slow
def test_processes_share_the_work(images, tmp_path):
    """With the variables that torchrun sets for each process."""
    (images / "bad.png").write_text("hello")
    tool, options = str(ROOT / "tools" / "predict.py"), [str(bundle_of("retina", "onnx")), str(images), "--overlays"]
    alone = CliRunner().invoke(predict.app, [*options, "--out", str(tmp_path / "one")])
    together = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    processes = [
        subprocess.Popen(
            [sys.executable, tool, *options, "--out", str(tmp_path / "two")],
            env={**os.environ, **together, "RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    errors = [process.communicate()[1] for process in processes]
    assert [alone.exit_code, processes[0].returncode] == [1, 1], errors
    assert "bad.png" in errors[0]
    for name in ("findings.json", "detections.json", "findings.csv", "failures.csv"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert len(list((tmp_path / "two" / ".progress").glob("rank-*.jsonl"))) == 2
