import numpy as np
import pytest
from detection_cases import detector_like, evaluate_voc, make_detections, make_ground_truth, repeat_images
from literal_voc import literal_voc_ap

from cxr_mmdet.evaluation.coco import evaluate_coco
from cxr_mmdet.evaluation.headline import (
    HEADLINE,
    PER_CLASS,
    intervals,
    match_all,
    of_class,
    point_values,
    resampled_values,
    statistics,
)
from cxr_mmdet.structures.enums import HitCriterion

HEART = (10, 10, 40, 40)


@pytest.fixture(scope="module")
def case():
    return detector_like(4, groups=[f"p{number // 2}" for number in range(40)])


def test_point_values_are_those_of_each_metric(case):
    values = point_values(match_all(*case))
    coco, voc = evaluate_coco(*case), evaluate_voc(*case)
    assert values["mean_ap"] == pytest.approx(coco.mean_ap, abs=1e-12)
    assert values["mean_ap_50"] == pytest.approx(coco.mean_ap_50, abs=1e-12)
    assert values["mean_ap_75"] == pytest.approx(coco.mean_ap_75, abs=1e-12)
    assert values["voc_mean_ap_40"] == voc.mean_ap
    for label, entry in enumerate(voc.per_class):
        assert values[of_class("voc_ap_40", label)] == entry.ap
        assert values[of_class("ap_50", label)] == pytest.approx(coco.per_class[label].ap_50, abs=1e-12)
    assert set(values) == {*HEADLINE, *(of_class(name, label) for name in PER_CLASS for label in range(3))}


def test_the_competitions_mean_takes_no_finding_in(case):
    """The literal rule on files in which every image has its "No finding" box."""
    truth, detections = case
    abnormal = {entry["image_id"] for entry in truth["annotations"]}
    normal = [image["id"] for image in truth["images"] if image["id"] not in abnormal]
    box = [0, 0, 1, 1]
    annotations = truth["annotations"] + [
        {"id": 1000 + i, "image_id": i, "category_id": 99, "bbox": box, "area": 1, "iscrowd": 0} for i in normal
    ]
    best = {image["id"]: 0.0 for image in truth["images"]}
    for entry in detections:
        best[entry["image_id"]] = max(best[entry["image_id"]], entry["score"])
    extended = detections + [
        {"image_id": i, "category_id": 99, "bbox": box, "score": 1 - score} for i, score in best.items()
    ]
    expected = [literal_voc_ap(truth | {"annotations": annotations}, extended, c, 0.4) for c in (7, 2, 3, 99)]
    values = point_values(match_all(truth, detections))
    assert values["voc_mean_ap_40_with_no_finding"] == pytest.approx(np.mean(expected), abs=1e-12)


def test_a_given_probability_moves_the_image_numbers_only(case):
    perfect = (match_all(*case).images.abnormal).astype(float)
    plain, given = point_values(match_all(*case)), point_values(match_all(*case, p_abnormal=perfect))
    assert given["image_auc"] == 1.0
    assert {name for name in plain if plain[name] != given[name]} == {"image_auc", "voc_mean_ap_40_with_no_finding"}


def test_the_criterion_moves_froc_only(case):
    plain = point_values(match_all(*case))
    centre = point_values(match_all(*case, criterion=HitCriterion.CENTRE))
    changed = {name.split("/")[0] for name in plain if plain[name] != centre[name]}
    assert changed
    assert all("sensitivity" in name for name in changed)


def test_a_resample_is_a_file_with_its_images_repeated(case):
    truth, detections = case
    weights = np.random.default_rng(0).integers(0, 3, (1, 40))
    copied = repeat_images(truth, detections, weights[0].tolist())
    expected = point_values(match_all(*copied))
    ours = statistics(match_all(truth, detections), weights)
    for name, value in expected.items():
        assert ours[name][0] == pytest.approx(value, abs=1e-12), name


def test_intervals_hold_the_value_and_follow_the_seed(case):
    matched = match_all(*case)
    values = point_values(matched)
    samples = resampled_values(matched, resamples=200, seed=1)
    result = intervals(values, samples, matched.groups)
    for name in HEADLINE:
        assert result[name].low <= result[name].value <= result[name].high, name
        assert result[name].low < result[name].high, name
    again = resampled_values(matched, resamples=200, seed=1)
    assert all((samples[name] == again[name]).all() for name in HEADLINE)
    other = resampled_values(matched, resamples=200, seed=2)
    assert (samples["mean_ap"] != other["mean_ap"]).any()


def test_without_samples_there_is_no_interval(case):
    matched = match_all(*case)
    result = intervals(point_values(matched), {}, matched.groups)
    assert (result["mean_ap"].low, result["mean_ap"].high) == (None, None)


def test_no_detections_are_zeros_and_no_boxes_undefined():
    truth = make_ground_truth([(4, 7, HEART)])
    values = point_values(match_all(truth, []))
    assert {values[name] for name in HEADLINE[:4]} == {0.0}
    assert values["image_auc"] == 0.5
    nothing = point_values(match_all(make_ground_truth([]), make_detections([(4, 7, HEART, 0.5)])))
    assert (
        nothing["mean_ap"] is nothing["voc_mean_ap_40"] is nothing["image_auc"] is nothing["mean_sensitivity"] is None
    )
    empty = {"images": [], "annotations": [], "categories": []}
    assert set(point_values(match_all(empty, [])).values()) == {None}
    assert np.isnan(resampled_values(match_all(empty, []), resamples=3)["mean_ap"]).all()
