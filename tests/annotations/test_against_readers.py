"""A detector among readers: it ranks first when it is what readers agree on, and last when it is nothing."""

import json

import numpy as np
import pandas as pd
import pytest
from conftest import write_reader_source
from detection_cases import evaluate_voc
from reader_tables import readings
from typer.testing import CliRunner

from cxr_mmdet.annotations.against_readers import rank_among_readers
from cxr_mmdet.cli.evaluate import app
from cxr_mmdet.errors import UsageError
from cxr_mmdet.evaluation.evaluate import evaluate
from cxr_mmdet.evaluation.matching import DetectionTable
from cxr_mmdet.preparation.build import BuildOptions, build_dataset
from cxr_mmdet.preparation.table_report import against_readers_tables
from cxr_mmdet.structures.boxes import xyxy_to_xywh
from cxr_mmdet.structures.labels import NO_FINDING

LABELS = ("ILD", "Mass")
BOX = (10.0, 10.0, 60.0, 60.0)


def study(images=40):
    """Three readers who each overlook every third finding, in turn."""
    rows = []
    for image in range(images):
        for number, reader in enumerate("ABC"):
            drew = image % 3 != number
            rows.append((f"i{image:02}", LABELS[image % 2] if drew else "No finding", reader, BOX if drew else None))
    truth = {
        "images": [
            {"id": number + 1, "image_id": f"i{number:02}", "width": 99, "height": 99} for number in range(images)
        ],
        "categories": [{"id": number + 1, "name": name} for number, name in enumerate(LABELS)],
        "annotations": [],
    }
    return readings(*rows), truth


def detections(images, classes, boxes, scores=None):
    scores = np.ones(len(images)) if scores is None else scores
    return DetectionTable(np.array(images, np.int64), np.array(classes, np.int64), xyxy_to_xywh(boxes), scores)


def test_a_detector_that_sees_everything_ranks_first():
    rows, truth = study()
    found = detections(range(40), [image % 2 for image in range(40)], [BOX] * 40, np.linspace(0.9, 0.5, 40))
    ranked = rank_among_readers(rows, truth, found, resamples=20)
    assert ranked.rank.value == 1
    # Two of three readings of each image hold its box.
    assert ranked.expected.value == pytest.approx(2 / 3, abs=0.05)
    assert ranked.expected.low <= ranked.expected.value < ranked.expected.high
    assert [each.reader for each in ranked.readers] == ["A", "B", "C"]
    assert all(each.images == 40 for each in ranked.readers)


def test_a_detector_that_sees_nothing_ranks_last():
    rows, truth = study()
    found = detections([], [], np.zeros((0, 4)))
    ranked = rank_among_readers(rows, truth, found, resamples=0)
    assert ranked.rank.value == 4
    assert ranked.of == 4
    assert ranked.expected.value == 0
    assert json.dumps(ranked.to_json(), allow_nan=False)


def test_readers_and_classes_without_boxes_are_not_ranked_among():
    rows, truth = study()
    idle = readings(*[(f"i{image:02}", NO_FINDING, reader, None) for image in range(40, 44) for reader in "DE"])
    truth["images"] += [
        {"id": number + 1, "image_id": f"i{number}", "width": 99, "height": 99} for number in range(40, 44)
    ]
    truth["categories"].append({"id": 3, "name": "Edema"})
    ranked = rank_among_readers(pd.concat([rows, idle]), truth, detections([], [], np.zeros((0, 4))), resamples=20)
    assert len(ranked.readers) == 5
    assert (ranked.rank.value, ranked.of) == (4, 4)
    assert (ranked.class_rank["ILD"].value, ranked.class_of["ILD"]) == (4, 4)
    assert (ranked.class_rank["Edema"].value, ranked.class_rank["Edema"].low) == (None, None)
    cells = [str(cell) for column in against_readers_tables(ranked)[1].columns for cell in column.cells]
    assert "4 of 4 (4 to 4)" in cells
    assert "n/a" in cells


def test_nobody_drew_a_box(tmp_path):
    write_reader_source(tmp_path / "src")
    build_dataset(tmp_path / "src", tmp_path / "out", BuildOptions())
    _, truth = study(4)
    rows = readings(*[(f"i{image:02}", NO_FINDING, reader, None) for image in range(4) for reader in "AB"])
    ranked = rank_among_readers(rows, truth, detections([0], [0], np.array([BOX])), resamples=5)
    assert ranked.rank.value is None
    result = evaluate(tmp_path / "out/annotations/val_14.json", [], resamples=0)
    result.write(tmp_path / "report", against_readers=ranked.to_json())
    assert "there is nothing to rank among" in (tmp_path / "report/report.html").read_text()


def test_the_score_against_one_reader_is_that_of_their_boxes_as_ground_truth():
    rows, truth = study()
    random = np.random.default_rng(0)
    boxes = np.array([BOX] * 40) + random.normal(0, 6, (40, 4))
    found = detections(range(40), random.integers(0, 2, 40), boxes, random.random(40))
    ranked = rank_among_readers(rows, truth, found, resamples=0)
    drew = [image for image in range(40) if image % 3 != 0]
    own = truth | {
        "annotations": [
            {"id": number, "image_id": image + 1, "category_id": image % 2 + 1, "bbox": [10, 10, 50, 50], "area": 2500}
            for number, image in enumerate(drew)
        ]
    }
    listed = [
        {"image_id": int(i) + 1, "category_id": int(c) + 1, "bbox": list(b), "score": float(s)}
        for i, c, b, s in zip(found.image_index, found.category_index, found.boxes_xywh, found.scores, strict=True)
    ]
    assert ranked.readers[0].detector_against.value == pytest.approx(evaluate_voc(own, listed).mean_ap)


def test_readers_who_share_no_image_are_one_sentence():
    _, truth = study()
    rows = readings(("i00", "ILD", "A", BOX), ("i01", "ILD", "B", BOX))
    with pytest.raises(UsageError, match="no two readers share an image"):
        rank_among_readers(rows, truth, detections([], [], np.zeros((0, 4))))


def test_the_command_scores_a_prepared_folder(tmp_path):
    write_reader_source(tmp_path / "src")
    build_dataset(tmp_path / "src", tmp_path / "out", BuildOptions())
    truth = tmp_path / "out/annotations/train_14.json"
    coco = json.loads(truth.read_text())
    keys = ("image_id", "category_id", "bbox")
    found = [{key: box[key] for key in keys} | {"score": 0.9} for box in coco["annotations"]]
    (tmp_path / "detections.json").write_text(json.dumps(found))
    arguments = ["run", str(truth), str(tmp_path / "detections.json"), "--against", "readers", "--resamples", "5"]
    result = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path / "report")])
    assert result.exit_code == 0, result.output
    assert "a new one" in result.stdout
    written = json.loads((tmp_path / "report/against_readers.json").read_text())
    assert [each["reader"] for each in written["readers"]] == ["R1", "R2", "R3"]
    assert written["rank"]["of"] == 4
    page = (tmp_path / "report/report.html").read_text()
    assert "One more reader" in page
    assert f"ranks {written['rank']['value']:g} of 4" in page
    assert "Split by readers" not in page

    (tmp_path / "out/annotations/readers.csv").unlink()
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert "there is no" in result.stderr


def test_the_page_says_that_validation_images_were_read_by_others(tmp_path):
    write_reader_source(tmp_path / "src")
    build_dataset(tmp_path / "src", tmp_path / "out", BuildOptions())
    manifest = tmp_path / "out/manifest.json"
    content = json.loads(manifest.read_text())
    content["parameters"] |= {"split": "readers", "train_readers": ["R8", "R9"]}
    manifest.write_text(json.dumps(content))
    evaluate(tmp_path / "out/annotations/val_14.json", [], resamples=0).write(tmp_path / "report")
    assert "Split by readers: R8, R9 read the training images" in (tmp_path / "report/report.html").read_text()
