import json

import numpy as np
import pytest
from detection_cases import NAMES, detector_like

from cxr_mmdet.evaluation.bootstrap import resampling_weights
from cxr_mmdet.evaluation.comparison import compare
from cxr_mmdet.evaluation.headline import HEADLINE, match_all, of_class
from cxr_mmdet.evaluation.voc import average_precision


@pytest.fixture(scope="module")
def case():
    return detector_like(2)


def worse(detections, noise, seed=0):
    """Return the detections with boxes that stray."""
    random = np.random.default_rng(seed)
    strayed = []
    for entry in detections:
        x, y, width, height = entry["bbox"]
        strayed.append(entry | {"bbox": [*(np.array([x, y]) + random.normal(0, noise, 2)).tolist(), width, height]})
    return strayed


def test_a_detector_does_not_differ_from_itself(case):
    matched = match_all(*case)
    result = compare(matched, matched, resamples=100)
    for entry in result.values.values():
        assert entry.first == entry.second
        assert (entry.difference.value, entry.difference.low, entry.difference.high, entry.p) == (0, 0, 0, 1)


def test_a_worse_detector_is_told_from_a_better_one(case):
    truth, detections = case
    result = compare(match_all(truth, worse(detections, 25)), match_all(truth, detections), ("bad", "good"))
    entry = result.values["voc_mean_ap_40"]
    assert entry.difference.value == pytest.approx(entry.second.value - entry.first.value)
    assert entry.difference.low > 0
    assert entry.p == pytest.approx(2 / 1001)  # no resample on the other side
    assert result.names == ("bad", "good")


def test_swapping_the_detectors_turns_the_signs(case):
    truth, detections = case
    one, two = match_all(truth, worse(detections, 3)), match_all(truth, detections)
    there, back = (compare(*pair, resamples=200) for pair in ((one, two), (two, one)))
    for name in HEADLINE:
        assert there.values[name].difference.value == pytest.approx(-back.values[name].difference.value)
        assert there.values[name].difference.low == pytest.approx(-back.values[name].difference.high)
        assert there.values[name].p == back.values[name].p


def test_draws_are_paired(case):
    """Worked again from the weights: the interval of the difference, draw by draw."""
    truth, detections = case
    one, two = match_all(truth, worse(detections, 5)), match_all(truth, detections)
    name = of_class("voc_ap_40", 1)
    entry = compare(one, two, resamples=150, seed=9).values[name]
    weights = np.vstack(list(resampling_weights(one.groups, resamples=150, seed=9)))
    differences = average_precision(two.voc[1], weights) - average_precision(one.voc[1], weights)
    expected = np.nanquantile(differences, [0.025, 0.975])
    np.testing.assert_allclose([entry.difference.low, entry.difference.high], expected, rtol=0, atol=1e-12)
    sides = min((differences <= 0).sum(), (differences >= 0).sum())
    assert entry.p == pytest.approx(min(1, 2 * (sides + 1) / 151))


def test_without_resamples_there_are_differences_only(case):
    matched = match_all(*case)
    entry = compare(matched, match_all(case[0], []), resamples=0).values["mean_ap"]
    assert entry.difference.value < 0
    assert (entry.difference.low, entry.p) == (None, None)


def test_to_json_is_json(case):
    matched = match_all(*case)
    content = json.loads(json.dumps(compare(matched, matched, resamples=5).to_json(), allow_nan=False))
    assert set(HEADLINE) < set(content)
    assert [entry["name"] for entry in content["per_class"]] == list(NAMES)
    assert content["bootstrap"] == {"groups": 40, "resamples": 5, "seed": 0}
