"""Federated scoring: a class counts on the images that were looked through for it."""

import json
import logging
from unittest import mock

import numpy as np
import pytest
from detection_cases import (
    CATEGORY_IDS,
    IMAGE_IDS,
    evaluate_voc,
    found,
    make_detections,
    make_ground_truth,
    truths,
    with_distinct_scores,
)
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from literal_voc import literal_voc_ap
from lvis import LVIS, LVISEval, LVISResults
from typer.testing import CliRunner

from cxr_mmdet.cli.evaluate import app
from cxr_mmdet.evaluation.coco import evaluate_coco
from cxr_mmdet.evaluation.evaluate import evaluate
from cxr_mmdet.evaluation.headline import match_all, point_values
from cxr_mmdet.structures.coverage import Coverage, coverage_of

CARDIOMEGALY, NODULE, PNEUMOTHORAX = CATEGORY_IDS
LEFT, RIGHT = (0, 0, 40, 40), (100, 100, 40, 40)


def state(ground_truth, statements):
    """Return the ground truth with one Coverage per image and class, except that a box makes its class known."""
    present = {(entry["image_id"], entry["category_id"]) for entry in ground_truth["annotations"]}
    for image, row in zip(ground_truth["images"], statements, strict=True):
        pairs = list(zip(CATEGORY_IDS, row, strict=True))
        image["neg_category_ids"] = [
            c for c, known in pairs if known == Coverage.EXHAUSTIVE and (image["id"], c) not in present
        ]
        image["not_exhaustive_category_ids"] = [c for c, known in pairs if known == Coverage.NOT_EXHAUSTIVE]
    return ground_truth


without_regions = truths.map(
    lambda truth: truth | {"annotations": [entry for entry in truth["annotations"] if not entry["iscrowd"]]}
)
statements = st.lists(
    st.lists(st.sampled_from(list(Coverage)), min_size=3, max_size=3), min_size=len(IMAGE_IDS), max_size=len(IMAGE_IDS)
)
partly_labelled = st.tuples(without_regions, statements).map(lambda pair: state(*pair))


def lvis_values(ground_truth, detections):
    """Return mAP, mAP@.5, mAP@.75 and the areas' mAP by LVIS' own code."""
    truth = json.loads(json.dumps(ground_truth))
    truth["categories"] = [category | {"frequency": "f"} for category in truth["categories"]]
    lvis = LVIS.__new__(LVIS)
    lvis.dataset = truth
    lvis.logger = logging.getLogger("lvis")
    lvis._create_index()
    evaluation = LVISEval(lvis, LVISResults(lvis, json.loads(json.dumps(detections))), "bbox")
    with mock.patch.object(np, "float", float, create=True):  # the package is older than numpy 1.24
        evaluation.run()
    return [evaluation.results[name] for name in ("AP", "AP50", "AP75", "APs", "APm", "APl")]


@settings(max_examples=60)
@given(partly_labelled, found.filter(len))
def test_average_precision_is_that_of_lvis(ground_truth, detections):
    assume(ground_truth["annotations"])
    ours = evaluate_coco(ground_truth, detections)
    names = ("mean_ap", "mean_ap_50", "mean_ap_75", "mean_ap_small", "mean_ap_medium", "mean_ap_large")
    own = [-1 if getattr(ours, name) is None else getattr(ours, name) for name in names]
    np.testing.assert_allclose(own, lvis_values(ground_truth, detections), atol=1e-9)
    values = point_values(match_all(ground_truth, detections))
    np.testing.assert_allclose([values[name] for name in names[:3]], own[:3], atol=1e-9)


@settings(max_examples=60)
@given(partly_labelled, found.map(with_distinct_scores))
def test_voc_and_froc_leave_out_what_nobody_looked_for(ground_truth, detections):
    coverage = dict(
        zip((image["id"] for image in ground_truth["images"]), coverage_of(ground_truth).tolist(), strict=True)
    )
    known = {(i, c): row[k] for i, row in coverage.items() for k, c in enumerate(CATEGORY_IDS)}
    kept = [entry for entry in detections if known[entry["image_id"], entry["category_id"]] > Coverage.UNKNOWN]
    literal = json.loads(json.dumps(ground_truth))
    for image_id, category_id in (key for key, value in known.items() if value == Coverage.NOT_EXHAUSTIVE):
        region = {"image_id": image_id, "category_id": category_id, "bbox": [-1e6, -1e6, 2e6, 2e6], "iscrowd": 1}
        literal["annotations"].append(region)
    for label, scored in enumerate(evaluate_voc(ground_truth, detections).per_class):
        expected = literal_voc_ap(literal, kept, CATEGORY_IDS[label], 0.4)
        assert scored.ap == (None if np.isnan(expected) else pytest.approx(expected, abs=1e-12))
    matched = match_all(ground_truth, detections)
    searched = np.array([[known[i, c] == Coverage.EXHAUSTIVE for c in CATEGORY_IDS] for i in IMAGE_IDS])
    for label, entry in enumerate(matched.froc):
        false = ~entry.hits & ~entry.duplicates
        assert searched[entry.image_index[false], label].all(), "false positives are counted where the class is known"
        np.testing.assert_array_equal(matched.truth.exhaustive[:, label], searched[:, label])


def test_false_positives_per_image_are_counted_over_the_images_that_were_looked_through():
    boxes = [(4, NODULE, LEFT), (1, NODULE, LEFT)]
    truth = state(make_ground_truth(boxes), [[0, 2, 0], [0, 2, 0], [0, 0, 0], [0, 0, 0]])
    hit, false = (4, NODULE, LEFT, 0.9), (1, NODULE, RIGHT, 0.95)
    elsewhere = [(30, NODULE, RIGHT, 0.99), (4, CARDIOMEGALY, RIGHT, 0.99)]
    values = point_values(match_all(truth, make_detections([hit, false, *elsewhere])))
    label = CATEGORY_IDS.index(NODULE)
    # One false positive on two images looked through for nodules: 1 / 2 per image, and 1 of 2 boxes found there.
    assert values[f"sensitivity_at_0.25/{label}"] == 0
    assert values[f"sensitivity_at_0.5/{label}"] == 1 / 2
    # All findings together: 2 of 4 * 3 pairs of an image and a class were looked for, as many as 2 / 3 of an image.
    assert values["sensitivity_at_1"] == 0
    assert values["sensitivity_at_2"] == 1 / 2


def test_image_is_normal_only_if_every_class_was_looked_for():
    truth = state(make_ground_truth([(4, NODULE, LEFT)]), [[0, 2, 0], [2, 2, 2], [2, 2, 0], [0, 0, 0]])
    images = match_all(truth, [], p_abnormal=np.array([0.9, 0.1, 0.8, 0.8])).images
    assert images.abnormal.tolist() == [True, False, False, False]
    assert images.known.tolist() == [True, True, False, False]
    assert point_values(match_all(truth, [], p_abnormal=np.array([0.5, 0.1, 0.9, 0.9])))["image_auc"] == 1


@settings(max_examples=30)
@given(without_regions, found)
def test_files_that_state_full_coverage_score_as_files_that_state_nothing(ground_truth, detections):
    plain = evaluate(ground_truth, detections, resamples=20).to_metrics()
    stated = state(json.loads(json.dumps(ground_truth)), [[Coverage.EXHAUSTIVE] * 3] * len(IMAGE_IDS))
    assert evaluate(stated, detections, resamples=20).to_metrics() == plain


def test_detection_without_extent_does_not_count_where_nobody_looked():
    truth = state(make_ground_truth([(4, NODULE, LEFT)]), [[0, 1, 0], [0, 0, 0], [0, 2, 0], [0, 0, 0]])
    rows = [(4, NODULE, (5, 5, 0, 9), 0.9), (1, NODULE, (5, 5, 0, 9), 0.9), (30, NODULE, (5, 5, 0, 9), 0.9)]
    matched = match_all(truth, make_detections(rows))
    assert matched.detections.image_index.tolist() == [IMAGE_IDS.index(30)]


def test_command_says_what_was_not_looked_for(tmp_path):
    truth = state(make_ground_truth([(4, NODULE, LEFT)]), [[0, 2, 0], [2, 2, 2], [2, 2, 2], [2, 2, 2]])
    for name, content in (("gt.json", truth), ("dt.json", make_detections([(4, NODULE, LEFT, 0.9)]))):
        (tmp_path / name).write_text(json.dumps(content))
    paths = [str(tmp_path / name) for name in ("gt.json", "dt.json")]
    ran = CliRunner().invoke(app, ["run", *paths, "--out", str(tmp_path / "out"), "--resamples", "10"])
    assert ran.exit_code == 0, ran.output
    assert "(Cardiomegaly on 3, Pneumothorax on 3)" in ran.output
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert [entry["images"] for entry in metrics["per_class"]] == [3, 4, 3]
    assert "images looked" in (tmp_path / "out" / "report.html").read_text()
