import json
import re
from pathlib import Path

import numpy as np
import pytest
from ceiling_cases import make_ceiling
from detection_cases import detector_like, make_detections, make_ground_truth

from cxr_mmdet.evaluation.bootstrap import Interval
from cxr_mmdet.evaluation.ceiling import HumanCeiling
from cxr_mmdet.evaluation.coco import evaluate_coco
from cxr_mmdet.evaluation.evaluate import take_account
from cxr_mmdet.evaluation.headline import HEADLINE
from cxr_mmdet.evaluation.terminal import operating_note

HEART = (10, 10, 40, 40)


@pytest.fixture(scope="module")
def case():
    return detector_like(6)


@pytest.fixture(scope="module")
def account(case):
    return take_account(*case, resamples=100)


def test_metrics_are_json_and_hold_cocos_numbers(case, account):
    metrics = account.to_metrics()
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
    metrics = take_account(*case, resamples=2, ceiling=ceiling).to_metrics()
    documented = set(re.findall(r"`([a-z_0-9.]+)`", text))
    names = {re.sub(r"^sensitivity_at_[\d.]+$", "sensitivity_at_1", key) for key in keys_of(metrics)}
    assert names - documented == set()


def test_the_operating_threshold_gives_one_false_positive_an_image(case, account):
    pooled = account.matched.pooled
    shown = pooled.scores >= account.score_threshold
    false = int((~pooled.hits & ~pooled.duplicates)[shown].sum())
    assert 30 <= false <= 40  # of 40 images
    assert pooled.hits[pooled.scores == account.score_threshold].any()
    assert take_account(*case, resamples=0, score_threshold=0.7).score_threshold == 0.7


def test_the_ceiling_stands_beside_the_models_numbers(case):
    values = {name: Interval(0.8, 0.7, 0.9) for name in ("voc_mean_ap_40", "mean_ap_50", "mean_ap")}
    account = take_account(*case, resamples=0, ceiling=HumanCeiling("val", 30, 3, values, {}))
    metrics = account.to_metrics()
    assert metrics["human_ceiling"]["reached"]["mean_ap"] == pytest.approx(metrics["mean_ap"] / 0.8)
    assert metrics["human_ceiling"]["mean_ap"] == {"value": 0.8, "low": 0.7, "high": 0.9}
    assert make_ceiling()["images"] == 120
    assert take_account(*case, resamples=0).to_metrics()["human_ceiling"] is None


def test_nothing_detected_and_nothing_annotated():
    truth = make_ground_truth([(4, 7, HEART)])
    metrics = take_account(truth, [], resamples=20).to_metrics()
    assert metrics["mean_ap"] == metrics["voc_mean_ap_40"] == metrics["sensitivity_at_1"] == 0.0
    assert metrics["confusion"]["score_threshold"] is None
    assert metrics["calibration"]["ece"] is None
    undefined = take_account(make_ground_truth([]), make_detections([(4, 7, HEART, 0.5)]), resamples=20).to_metrics()
    assert undefined["mean_ap"] is undefined["image_auc"] is None
    assert undefined["errors"] == {}
    json.dumps(undefined, allow_nan=False)


def test_perfect_detections():
    truth = make_ground_truth([(4, 7, HEART), (1, 2, HEART)])
    metrics = take_account(truth, make_detections([(4, 7, HEART, 0.9), (1, 2, HEART, 0.8)]), resamples=0).to_metrics()
    for name in (*HEADLINE,):
        assert metrics[name] == 1.0, name
    assert np.trace(metrics["confusion"]["counts"]) == 2


def test_without_a_hit_at_one_false_positive_per_image_the_operating_threshold_is_undefined():
    """It became 0.0, so that every detection counted as shown."""
    truth = make_ground_truth([(4, 7, HEART)], image_ids=(4,))
    alarms = [(4, 7, (100, 100, 40, 40), score) for score in (0.9, 0.8, 0.7)]
    account = take_account(truth, make_detections([*alarms, (4, 7, HEART, 0.001)]), resamples=0)
    confusion = account.to_metrics()["confusion"]
    assert confusion["score_threshold"] is None
    assert confusion["counts"] == [[0, 0, 0, 1], [0] * 4, [0] * 4, [0] * 4], "no hit, no false alarm, one box missed"
    assert "none" in operating_note(account)
