"""``predict``: what users type, and what they get wrong."""

from __future__ import annotations

import json

import cv2
import pytest
from detectors import bundle_of, checkpoint_of, write_checkpoint, write_image
from typer.testing import CliRunner

from cxr_mmdet.cli.ensemble import app as ensemble_app
from cxr_mmdet.cli.evaluate import app as evaluate_app
from cxr_mmdet.cli.export import app as export_app
from cxr_mmdet.cli.predict import app, repeat_option


def run(*arguments, of=app):
    return CliRunner().invoke(of, [str(argument) for argument in arguments], env={"COLUMNS": "100"})


@pytest.fixture
def images(tmp_path):
    for seed in range(3):
        write_image(tmp_path / "in" / f"p{seed}.png", 60, 50, seed)
    return tmp_path / "in"


def test_a_folder_by_a_bundle(images, tmp_path):
    result = run(bundle_of("retina", "onnx"), images, "--out", tmp_path / "out", "--overlays", "--overlay-size", 200)
    assert result.exit_code == 0, result.output
    assert result.stdout.strip() == str(tmp_path / "out")
    assert "findings in 3 radiographs" in result.stderr
    assert cv2.imread(str(tmp_path / "out" / "overlays" / "p1.png")).shape == (200, 167, 3)
    again = run(bundle_of("retina", "onnx"), images, "--out", tmp_path / "out", "--overlays", "--overlay-size", 200)
    assert "3 of them by an earlier run" in again.stderr


def test_the_checkpoint_and_its_bundle_give_one_answer(images, tmp_path):
    for name, model in {"a": checkpoint_of("faster"), "b": bundle_of("faster", "onnx")}.items():
        assert run(model, images / "*.png", "--out", tmp_path / name).exit_code == 0
    one, other = (json.loads((tmp_path / name / "detections.json").read_text()) for name in "ab")
    assert len(one) == len(other) > 10
    assert max(abs(a["score"] - b["score"]) for a, b in zip(one, other, strict=True)) < 1e-4


def test_a_bad_file_is_reported_and_the_rest_goes_on(images, tmp_path):
    (images / "bad.dcm").write_bytes(b"nothing")
    result = run(bundle_of("retina", "onnx"), images, "--out", tmp_path / "out")
    assert result.exit_code == 1
    assert "bad.dcm" in result.stderr
    assert "1 failed; all in" in result.stderr
    assert len(json.loads((tmp_path / "out" / "findings.json").read_text())["images"]) == 3


def test_an_ensemble_with_augmentation_and_thresholds(images, tmp_path):
    result = run(
        "--ensemble",
        checkpoint_of("retina"),
        bundle_of("faster", "onnx"),
        "--out",
        tmp_path / "out",
        images,
        *("--fusion", "p_sum", "--weight", 2, "--weight", 1, "--tta-flip", "--tta-scale", 1.25),
        *("--score-threshold", 0.1, "--class-threshold", "ILD=0.3", "--nms-iou", 0.4),
    )
    assert result.exit_code == 0, result.output
    document = json.loads((tmp_path / "out" / "findings.json").read_text())
    assert document["settings"]["views"] == [[1.0, False], [1.25, False], [1.0, True], [1.25, True]]
    assert document["settings"]["model_id"].startswith("p_sum@0.5:2,1(retina-")
    scores = [(entry["class"], entry["score"]) for image in document["images"] for entry in image["findings"]]
    assert scores
    assert all(score > (0.3 if name == "ILD" else 0.1) for name, score in scores)


def test_detections_of_a_prepared_folder_can_be_scored(prepared_folder, tmp_path):
    root = prepared_folder()
    annotations = root / "annotations" / "val_5.json"
    for name, kind in {"a": "retina", "b": "faster"}.items():
        result = run(bundle_of(kind, "onnx"), root / "images", "--coco", annotations, "--out", tmp_path / name)
        assert result.exit_code == 0, result.output
    files = [tmp_path / name / "detections.json" for name in "ab"]
    fused = run(*files, "--coco", annotations, "--out", tmp_path / "fused.json", of=ensemble_app)
    assert fused.exit_code == 0, fused.output
    refused = run(*files, "--coco", annotations, "--out", tmp_path / "fused.json", of=ensemble_app)
    assert refused.exit_code == 2
    assert "--force" in refused.stderr
    scored = run("run", annotations, tmp_path / "fused.json", of=evaluate_app)
    assert scored.exit_code == 0, scored.output


def test_models_of_other_label_orders_are_fused_by_name(tmp_path):
    names = ["ILD", "Cardiomegaly"]
    for name, order in {"a": [1, 2], "b": [2, 1]}.items():
        truth = {
            "images": [{"id": order[0], "file_name": "x.png", "height": 100 * order[0], "width": 100 * order[0]}],
            "categories": [{"id": number, "name": names[number - 1]} for number in order],
            "annotations": [],
        }
        side = 100 * order[0]
        box = [0.1 * side, 0.1 * side, 0.5 * side, 0.5 * side]
        found = [{"image_id": order[0], "category_id": 1, "bbox": box, "score": 0.8 / order[0]}]
        (tmp_path / f"truth_{name}.json").write_text(json.dumps(truth))
        (tmp_path / f"{name}.json").write_text(json.dumps(found))
    truths = [part for name in "ab" for part in ("--coco", tmp_path / f"truth_{name}.json")]
    result = run(tmp_path / "a.json", tmp_path / "b.json", *truths, "--out", tmp_path / "c.json", of=ensemble_app)
    assert result.exit_code == 0, result.output
    (entry,) = json.loads((tmp_path / "c.json").read_text())
    assert (entry["image_id"], entry["category_id"]) == (1, 1)
    assert entry["bbox"] == pytest.approx([10, 10, 50, 50])
    assert entry["score"] == pytest.approx((0.8 + 0.4) / 2)


def test_results_at_another_size_are_not_continued(images, tmp_path):
    """They were kept as if they were those of the size that was asked for."""
    for edge, code in ((64, 0), (64, 0), (32, 2)):
        result = run(checkpoint_of("retina"), images, "--out", tmp_path / "out", "--short-edge", edge)
        assert result.exit_code == code, result.output
    assert "results of another model or of other settings" in " ".join(result.stderr.split())


@pytest.mark.parametrize(
    ("arguments", "exit_code", "message"),
    [
        (("MODEL",), 2, "--out"),
        (("MODEL", "--out", "OUT"), 2, "no radiograph is given"),
        (("MODEL", "nowhere", "--out", "OUT"), 1, "no such file or folder"),
        (("MODEL", "EMPTY", "--out", "OUT"), 1, "holds no radiograph"),
        (("nowhere", "IN", "--out", "OUT"), 1, "no such model"),
        (("MODEL", "IN", "--out", "OUT", "--class-threshold", "ILD"), 2, "CLASS=SCORE"),
        (("MODEL", "IN", "--out", "OUT", "--class-threshold", "Fracture=0.5"), 2, "no class 'Fracture'"),
        (("MODEL", "IN", "--out", "OUT", "--score-threshold", "2"), 2, "--score-threshold"),
        (("MODEL", "IN", "--out", "OUT", "--device", "cuda"), 2, "run on the CPU"),
        (("MODEL", "IN", "--out", "OUT", "--short-edge", "512"), 2, "--short-edge"),
        (("--ensemble", "MODEL", "MODEL", "--weight", "1", "--out", "OUT", "IN"), 2, "1 weight for 2 models"),
    ],
)
def test_one_sentence_each(images, tmp_path, arguments, exit_code, message):
    (tmp_path / "empty").mkdir()
    places = {
        "MODEL": bundle_of("retina", "onnx"),
        "IN": images,
        "OUT": tmp_path / "out",
        "EMPTY": tmp_path / "empty",
    }
    result = run(*(places.get(argument, argument) for argument in arguments))
    assert result.exit_code == exit_code, result.output
    assert message in " ".join(result.output.split())
    assert "Traceback" not in result.output


def test_a_checkpoint_that_would_run_code(images, tmp_path):
    import os

    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "went-off"),)

    path = write_checkpoint("retina", tmp_path / "a.pth", extra=Bomb())
    refused = run(path, images, "--out", tmp_path / "out")
    assert refused.exit_code == 1
    assert "--trust-checkpoint" in refused.stderr
    assert not (tmp_path / "went-off").exists()
    assert run(path, images, "--out", tmp_path / "out", "--trust-checkpoint").exit_code == 0


def test_export_prints_how_far_it_is_from_torch(images, tmp_path):
    result = run(checkpoint_of("faster"), "--out", tmp_path / "b", "--check", images, of=export_app)
    assert result.exit_code == 0, result.output
    assert "3 in" in result.stdout
    assert "6 phantoms" in result.stdout
    assert result.stdout.rstrip().endswith(str(tmp_path / "b"))
    refused = run(checkpoint_of("faster"), "--out", tmp_path / "b", of=export_app)
    assert refused.exit_code == 2
    assert "--force" in refused.stderr


def test_values_of_an_option_up_to_the_next():
    assert repeat_option(["--ensemble", "a", "b", "--out", "o", "x"], "--ensemble") == [
        *("--ensemble", "a", "--ensemble", "b", "--out", "o", "x")
    ]
    assert repeat_option(["m", "x"], "--ensemble") == ["m", "x"]


def test_fusing_notes_boxes_without_extent(tmp_path):
    """They cannot overlap anything; before, they went without a word."""
    coco, found = tmp_path / "coco.json", tmp_path / "found.json"
    image = {"id": 1, "file_name": "a.png", "width": 20, "height": 20}
    coco.write_text(json.dumps({"images": [image], "annotations": [], "categories": [{"id": 1, "name": "ILD"}]}))
    boxes = ([1, 1, 5, 5], [20, 1, 0, 5])
    found.write_text(json.dumps([{"image_id": 1, "category_id": 1, "bbox": box, "score": 0.5} for box in boxes]))
    fused = run(found, found, "--coco", coco, "--out", tmp_path / "fused.json", of=ensemble_app)
    assert fused.exit_code == 0, fused.output
    assert f"note: {found}: left out 1 detection without width or height." in fused.stderr
    assert len(json.loads((tmp_path / "fused.json").read_text())) == 1


def test_fusing_refuses_images_that_their_names_do_not_tell_apart(tmp_path):
    """It ended in a traceback."""
    coco, found = tmp_path / "coco.json", tmp_path / "found.json"
    images = [{"id": place, "file_name": f"{name}/a.png", "width": 9, "height": 9} for place, name in enumerate("xy")]
    coco.write_text(json.dumps({"images": images, "annotations": [], "categories": [{"id": 1, "name": "ILD"}]}))
    found.write_text("[]")
    fused = run(found, found, "--coco", coco, "--out", tmp_path / "fused.json", of=ensemble_app)
    assert fused.exit_code == 1
    assert "x/a.png and y/a.png have one name without folder and suffix" in fused.stderr
