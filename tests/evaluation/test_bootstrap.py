import numpy as np
import pytest
from detection_cases import detector_like, make_ground_truth

from cxr_mmdet.evaluation.bootstrap import (
    Interval,
    bootstrap,
    group_index,
    percentile_interval,
    resampling_weights,
)
from cxr_mmdet.evaluation.matching import match_detections
from cxr_mmdet.evaluation.voc import average_precision


def test_a_group_is_the_patient_else_the_image():
    assert group_index(make_ground_truth([], groups=("b", "a", "b", "c"))).tolist() == [0, 1, 0, 2]
    assert group_index(make_ground_truth([])).tolist() == [0, 1, 2, 3]
    mixed = make_ground_truth([])
    mixed["images"][1]["group"] = mixed["images"][3]["id"]  # a patient named like an image is still a patient
    assert group_index(mixed).tolist() == [0, 1, 2, 3]
    assert group_index({"images": []}).tolist() == []


def test_a_draw_takes_whole_groups_with_replacement():
    groups = np.array([0, 1, 0, 2, 2])
    weights = np.vstack(list(resampling_weights(groups, resamples=400, at_once=30)))
    assert weights.shape == (400, 5)
    np.testing.assert_array_equal(weights[:, 0], weights[:, 2])
    np.testing.assert_array_equal(weights[:, 3], weights[:, 4])
    np.testing.assert_array_equal(weights[:, [0, 1, 3]].sum(axis=1), 3)
    # Each group is drawn once on average; the standard error of a mean of 400 is sqrt(2 / 3 / 400) = 0.04.
    np.testing.assert_allclose(weights[:, [0, 1, 3]].mean(axis=0), 1, atol=0.17)


def test_draws_depend_on_the_seed_only():
    groups = np.arange(20)

    def draws(**options):
        return np.vstack(list(resampling_weights(groups, resamples=25, **options)))

    np.testing.assert_array_equal(draws(at_once=1), draws(at_once=7))
    np.testing.assert_array_equal(draws(seed=3), draws(seed=3))
    assert (draws(seed=3) != draws(seed=4)).any()


def test_no_image_gives_empty_weights():
    assert [part.shape for part in resampling_weights(np.zeros(0, np.int64), resamples=3)] == [(3, 0)]


def test_statistics_are_gathered_over_the_parts():
    def mean_and_total(weights):
        return {"mean": weights.mean(axis=1), "total": weights.sum(axis=1).astype(float)}

    samples = bootstrap(mean_and_total, np.arange(10), resamples=120, at_once=50)
    np.testing.assert_array_equal(samples["mean"], np.ones(120))
    np.testing.assert_array_equal(samples["total"], np.full(120, 10.0))


def test_the_interval_of_a_mean_is_that_of_the_normal_distribution():
    """An oracle of theory: for the mean of n values the interval is about ±1.96 standard errors."""
    values = np.random.default_rng(5).normal(3, 2, 400)
    samples = bootstrap(lambda weights: {"mean": weights @ values / 400}, np.arange(400), resamples=4000)
    interval = percentile_interval(float(values.mean()), samples["mean"], groups=400)
    half = 1.96 * values.std() / 20
    np.testing.assert_allclose([interval.low, interval.high], [values.mean() - half, values.mean() + half], atol=0.02)


def test_what_is_undefined_has_no_interval():
    samples = np.array([0.1, 0.2, np.nan, 0.3])
    assert percentile_interval(None, samples, groups=4) == Interval(None, None, None)
    assert percentile_interval(0.2, np.full(4, np.nan), groups=4) == Interval(0.2, None, None)
    assert percentile_interval(0.2, samples, groups=1) == Interval(0.2, None, None)
    assert percentile_interval(0.2, samples, groups=4, level=0.5) == Interval(
        0.2, pytest.approx(0.15), pytest.approx(0.25)
    )
    assert Interval(0.5, 0.25, None).to_json() == {"value": 0.5, "low": 0.25, "high": None}


def test_patients_with_several_images_widen_the_interval():
    """Ten identical images a patient: resampling images would pretend to know ten times as much."""
    truth, detections = detector_like(0, images=20, boxes=50)
    copies = {"images": [], "annotations": [], "categories": truth["categories"]}
    found = []
    for number in range(10):
        for image in truth["images"]:
            copies["images"].append(image | {"id": image["id"] + 100 * number, "group": f"p{image['id']}"})
        copies["annotations"] += [
            a | {"id": a["id"] + 1000 * number, "image_id": a["image_id"] + 100 * number} for a in truth["annotations"]
        ]
        found += [d | {"image_id": d["image_id"] + 100 * number} for d in detections]
    matches = match_detections(copies, found)[0]

    def width(groups):
        samples = bootstrap(lambda weights: {"ap": average_precision(matches, weights)}, groups, resamples=300)
        return np.ptp(np.quantile(samples["ap"], [0.025, 0.975]))

    assert width(group_index(copies)) > 2 * width(np.arange(200))
