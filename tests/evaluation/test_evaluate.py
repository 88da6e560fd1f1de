import doctest
import json
import re
from pathlib import Path

import numpy as np
import pytest
from ceiling_cases import make_ceiling
from detection_cases import detector_like, evaluate_voc, make_detections, make_ground_truth

from cxr_mmdet.errors import DatasetError
from cxr_mmdet.evaluation import evaluate as evaluate_module
from cxr_mmdet.evaluation.bootstrap import Interval
from cxr_mmdet.evaluation.ceiling import HumanCeiling
from cxr_mmdet.evaluation.coco import evaluate_coco
from cxr_mmdet.evaluation.evaluate import evaluate, evaluate_inputs
from cxr_mmdet.evaluation.headline import HEADLINE
from cxr_mmdet.evaluation.inputs import EvaluationInputs
from cxr_mmdet.evaluation.terminal import NO_THRESHOLD
from cxr_mmdet.structures.boxes import iou_matrix, xywh_to_xyxy
from cxr_mmdet.structures.enums import HitCriterion

HEART = (10, 10, 40, 40)


@pytest.fixture(scope="module")
def case():
    return detector_like(6)


@pytest.fixture(scope="module")
def result(case):
    return evaluate(*case, resamples=100)


def test_metrics_are_json_and_hold_cocos_numbers(case, result):
    metrics = result.to_metrics()
    assert json.loads(json.dumps(metrics, allow_nan=False)) == metrics
    coco = evaluate_coco(*case).to_metrics()
    per_class = coco.pop("per_class")
    assert coco.items() <= metrics.items()
    for ours, theirs in zip(metrics["per_class"], per_class, strict=True):
        assert theirs.items() <= ours.items()
    assert metrics["schema_version"] == 2
    assert set(metrics["intervals"]["values"]) == set(HEADLINE)
    ends = metrics["intervals"]["values"]["voc_mean_ap_40"]
    assert ends["low"] < metrics["voc_mean_ap_40"] < ends["high"]


def keys_of(value):
    if isinstance(value, dict):
        yield from value
        for entry in value.values():
            yield from keys_of(entry)
    elif isinstance(value, list):
        for entry in value:
            yield from keys_of(entry)


def test_every_key_is_documented(case):
    text = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text(encoding="utf-8")
    ceiling = HumanCeiling("val", 3, 2, {"mean_ap": Interval(1, 0, 1)}, {"Cardiomegaly": {"ap_50": Interval(1, 0, 1)}})
    metrics = evaluate_inputs(EvaluationInputs(*case), resamples=2, ceiling=ceiling).to_metrics()
    documented = set(re.findall(r"`([a-z_0-9.]+)`", text))
    names = {re.sub(r"^sensitivity_at_[\d.]+$", "sensitivity_at_1", key) for key in keys_of(metrics)}
    assert names - documented == set()


def test_the_operating_threshold_gives_one_false_positive_an_image(case, result):
    pooled = result.matched.pooled
    shown = pooled.scores >= result.score_threshold
    false = int((~pooled.hits & ~pooled.duplicates)[shown].sum())
    assert 30 <= false <= 40  # of 40 images
    assert pooled.hits[pooled.scores == result.score_threshold].any()
    assert evaluate(*case, resamples=0, score_threshold=0.7).score_threshold == 0.7


def test_the_ceiling_stands_beside_the_models_numbers(case):
    values = {name: Interval(0.8, 0.7, 0.9) for name in ("voc_mean_ap_40", "mean_ap_50", "mean_ap")}
    result = evaluate_inputs(EvaluationInputs(*case), resamples=0, ceiling=HumanCeiling("val", 30, 3, values, {}))
    metrics = result.to_metrics()
    assert metrics["human_ceiling"]["reached"]["mean_ap"] == pytest.approx(metrics["mean_ap"] / 0.8)
    assert metrics["human_ceiling"]["mean_ap"] == {"value": 0.8, "low": 0.7, "high": 0.9}
    assert make_ceiling()["images"] == 120
    assert evaluate(*case, resamples=0).to_metrics()["human_ceiling"] is None


def test_nothing_detected_and_nothing_annotated():
    truth = make_ground_truth([(4, 7, HEART)])
    metrics = evaluate(truth, [], resamples=20).to_metrics()
    assert metrics["mean_ap"] == metrics["voc_mean_ap_40"] == metrics["sensitivity_at_1"] == 0.0
    assert metrics["confusion"]["score_threshold"] is None
    assert metrics["calibration"]["ece"] is None
    undefined = evaluate(make_ground_truth([]), make_detections([(4, 7, HEART, 0.5)]), resamples=20).to_metrics()
    assert undefined["mean_ap"] is undefined["image_auc"] is None
    assert undefined["errors"] == {}
    json.dumps(undefined, allow_nan=False)


def test_perfect_detections():
    truth = make_ground_truth([(4, 7, HEART), (1, 2, HEART)])
    metrics = evaluate(truth, make_detections([(4, 7, HEART, 0.9), (1, 2, HEART, 0.8)]), resamples=0).to_metrics()
    for name in (*HEADLINE,):
        assert metrics[name] == 1.0, name
    assert np.trace(metrics["confusion"]["counts"]) == 2


def test_without_a_hit_at_one_false_positive_per_image_the_operating_threshold_is_undefined():
    """It became 0.0, so that every detection counted as shown."""
    truth = make_ground_truth([(4, 7, HEART)], image_ids=(4,))
    alarms = [(4, 7, (100, 100, 40, 40), score) for score in (0.9, 0.8, 0.7)]
    result = evaluate(truth, make_detections([*alarms, (4, 7, HEART, 0.001)]), resamples=0)
    confusion = result.to_metrics()["confusion"]
    assert confusion["score_threshold"] is None
    assert confusion["counts"] == [[0, 0, 0, 1], [0] * 4, [0] * 4, [0] * 4], "no hit, no false alarm, one box missed"
    assert NO_THRESHOLD in " ".join(result.summary().split())


def precision_recall_by_loop(truth, detections, category_id, score_threshold, iou_threshold):
    """Return hits, false positives and misses of one class by PASCAL VOC's rule, written as a plain loop."""
    boxes = [a for a in truth["annotations"] if a["category_id"] == category_id]
    shown = [d for d in detections if d["category_id"] == category_id and d["score"] >= score_threshold]
    taken, hits = set(), 0
    for entry in sorted(shown, key=lambda d: -d["score"]):
        overlaps = [
            (iou_matrix(xywh_to_xyxy([entry["bbox"]]), xywh_to_xyxy([box["bbox"]]))[0, 0], -place)
            for place, box in enumerate(boxes)
            if box["image_id"] == entry["image_id"]
        ]
        overlap, place = max(overlaps, default=(0, 0))
        if overlap > iou_threshold and place not in taken:
            taken.add(place)
            hits += 1
    return hits, len(shown) - hits, len(boxes) - hits


@pytest.mark.parametrize("iou_threshold", [0.4, 0.6])
@pytest.mark.parametrize("score_threshold", [0.0, 0.35, 0.8])
def test_precision_recall_and_f1_equal_a_plain_loop(case, score_threshold, iou_threshold):
    truth, detections = case
    result = evaluate(truth, detections, resamples=0, score_threshold=score_threshold, iou_threshold=iou_threshold)
    point = result.to_metrics()["operating_point"]
    assert (point["score_threshold"], point["iou_threshold"]) == (score_threshold, iou_threshold)
    counts = [
        precision_recall_by_loop(truth, detections, category["id"], score_threshold, iou_threshold)
        for category in truth["categories"]
    ]
    for entry, (hits, false, missed) in zip(
        [*point["per_class"], point], [*counts, tuple(map(sum, zip(*counts, strict=True)))], strict=True
    ):
        assert (entry["true_positives"], entry["false_positives"], entry["false_negatives"]) == (hits, false, missed)
        assert entry["precision"] == (hits / (hits + false) if hits + false else None)
        assert entry["recall"] == hits / (hits + missed)
        assert entry["f1"] == pytest.approx(2 * hits / (2 * hits + false + missed))
    assert sum(hits for hits, _, _ in counts) > 0


def test_the_iou_of_hits_leaves_the_fixed_metrics_as_they_are(case):
    at_40, at_60 = (evaluate(*case, resamples=0, iou_threshold=iou).to_metrics() for iou in (0.4, 0.6))
    assert at_40["operating_point"]["voc_mean_ap"] == at_40["voc_mean_ap_40"]
    assert at_60["operating_point"]["voc_mean_ap"] == evaluate_voc(*case, 0.6).mean_ap < at_40["voc_mean_ap_40"]
    for name in ("mean_ap", "mean_ap_50", "voc_mean_ap_40", "voc_mean_ap_40_with_no_finding", "image_auc"):
        assert at_60[name] == at_40[name], name
    assert at_60["sensitivity_at_1"] < at_40["sensitivity_at_1"]
    assert at_60["confusion"]["iou_threshold"] == 0.6


def test_precision_without_detections_and_recall_without_boxes_are_undefined():
    truth = make_ground_truth([(4, 7, HEART)])
    point = evaluate(truth, make_detections([(4, 2, HEART, 0.9)]), resamples=0, score_threshold=0.5).to_metrics()
    with_box, with_detection, neither = point["operating_point"]["per_class"]
    assert (with_box["precision"], with_box["recall"], with_box["f1"]) == (None, 0.0, 0.0)
    assert (with_detection["precision"], with_detection["recall"], with_detection["f1"]) == (0.0, None, None)
    assert neither["precision"] is neither["recall"] is neither["f1"] is None


def test_files_and_dicts_give_the_same(case, tmp_path):
    truth, detections = case
    paths = tmp_path / "val.json", tmp_path / "detections.json"
    for path, content in zip(paths, case, strict=True):
        path.write_text(json.dumps(content), encoding="utf-8")
    result = evaluate(str(paths[0]), paths[1], resamples=5, criterion="centre")
    assert result.to_metrics() == evaluate(truth, detections, resamples=5, criterion=HitCriterion.CENTRE).to_metrics()
    result.write(tmp_path / "out")
    assert json.loads((tmp_path / "out/metrics.json").read_text()) == result.to_metrics()
    assert "val.json" in (tmp_path / "out/report.html").read_text()
    assert "mAP@[.5:.95]" in result.summary()
    assert repr(result).startswith("EvaluationResult(40 images, ")


def test_dicts_are_checked(case):
    truth, _ = case
    with pytest.raises(DatasetError, match=r"detections, entry 0: score 2 of image \d+ is not a number in 0…1"):
        evaluate(truth, [{"image_id": truth["images"][0]["id"], "category_id": 7, "bbox": [0, 0, 1, 1], "score": 2}])
    with pytest.raises(DatasetError, match="ground truth: not a valid COCO file: no list of images"):
        evaluate({"annotations": [], "categories": []}, [])
    with pytest.raises(ValueError, match="manifest needs ground_truth to be a file"):
        evaluate(truth, [], manifest=Path("manifest.json"))


def test_the_example_of_the_docstring():
    assert doctest.testmod(evaluate_module).failed == 0
