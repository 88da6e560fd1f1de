import json
import re

import cv2
import numpy as np
import pytest
from detection_cases import detector_like, make_detections, make_ground_truth
from page_parser import Page

from cxr_mmdet.errors import DatasetError
from cxr_mmdet.evaluation import figures
from cxr_mmdet.evaluation.bootstrap import Interval
from cxr_mmdet.evaluation.ceiling import HumanCeiling
from cxr_mmdet.evaluation.comparison import Comparison, Difference, compare
from cxr_mmdet.evaluation.evaluate import evaluate, evaluate_inputs
from cxr_mmdet.evaluation.headline import of_class
from cxr_mmdet.evaluation.inputs import EvaluationInputs
from cxr_mmdet.evaluation.report import write_comparison_report, write_report


@pytest.fixture
def case(tmp_path):
    """Ground truth whose images have files, and a detector's results."""
    truth, detections = detector_like(1, images=12, boxes=20)
    for image in truth["images"]:
        image["file_name"] = f"s{image['id']}.png"
        cv2.imwrite(str(tmp_path / image["file_name"]), np.full((200, 200), 60, np.uint8))
    (tmp_path / "val_5.json").write_text(json.dumps(truth))
    scores = tmp_path / "scores"
    scores.mkdir()
    (scores / "detections.json").write_text(json.dumps(detections))
    (scores / "recipe.py").write_text("lr = 0.01  # <b>\ntest_evaluator = dict()\n")
    return truth, detections, tmp_path


def report(case, path, **options):
    truth, detections, folder = case
    inputs = EvaluationInputs(truth, detections, None, folder / "val_5.json", folder / "scores/detections.json")
    result = evaluate_inputs(inputs, resamples=50, ceiling=options.pop("ceiling", None))
    write_report(path, result, **({"image_dir": folder} | options))
    return result, path.read_text(encoding="utf-8")


def test_one_page_that_loads_nothing(case, tmp_path):
    _, text = report(case, tmp_path / "r.html")
    page = Page(text)
    assert not re.search(r"https?://(?!www\.w3\.org|purl\.org|creativecommons\.org|matplotlib\.org)|@import", text)
    assert all(a.startswith(("data:image/jpeg;base64,", "#")) for a in page.addresses)
    assert "script" not in page.tags
    assert "b" not in page.tags  # of the config's comment
    assert page.tags.count("svg") == 4


def test_the_numbers_stand_there_with_their_intervals(case, tmp_path):
    result, text = report(case, tmp_path / "r.html")
    texts = Page(text).texts
    for title, name in (("mAP@.4 (VOC 2010)", "voc_mean_ap_40"), ("image AUC, abnormal or not", "image_auc")):
        interval = result.values[name]
        row = [cell for cell in texts[texts.index(title) + 1 :] if cell][:2]
        assert row == [f"{interval.value:.3f}", f"{interval.low:.3f}…{interval.high:.3f}"]
    assert any("lr = 0.01  # <b>" in text for text in texts)
    assert "val_5.json" in texts


def test_the_ceiling_and_how_much_of_it_is_reached(case, tmp_path):
    values = {name: Interval(0.8, 0.75, 0.85) for name in ("voc_mean_ap_40", "mean_ap_50", "mean_ap")}
    per_class = {"Cardiomegaly": {"voc_ap_40": Interval(0.9, 0.8, 1.0)}}
    result, text = report(case, tmp_path / "r.html", ceiling=HumanCeiling("val", 30, 3, values, per_class))
    texts = [cell for cell in Page(text).texts if cell]
    row = texts[texts.index("mAP@.5") + 1 :][:5]
    assert row[2:] == ["0.800", "0.750…0.850", f"{100 * result.values['mean_ap_50'].value / 0.8:.0f} %"]
    assert "0.900" in texts


def test_misses_and_false_alarms_are_shown_with_both_boxes(case, tmp_path):
    result, text = report(case, tmp_path / "r.html")
    page = Page(text)
    assert "Worst misses" in page.texts
    assert "Worst false alarms" in page.texts
    alts = [image["alt"] for image in page.images]
    assert len(alts) % 2 == 0
    assert all(alt.startswith("Ground truth: ") for alt in alts[::2])
    assert all(alt.startswith("Detections: ") for alt in alts[1::2])
    assert any("missed: hit" in text for text in page.texts)
    assert any("where the ground truth has none" in text for text in page.texts)
    assert 0 < result.score_threshold < 1


def test_without_images_there_are_only_numbers(case, tmp_path):
    _, text = report(case, tmp_path / "r.html", image_dir=None)
    page = Page(text)
    assert page.images == []
    assert "Worst misses" not in page.texts


def test_a_missing_image_is_named_and_nothing_is_written(case, tmp_path):
    for path in tmp_path.glob("*.png"):
        path.unlink()
    with pytest.raises(DatasetError, match=r"s\d+\.png: cannot be read"):
        report(case, tmp_path / "r.html")
    assert not (tmp_path / "r.html").exists()


def test_same_input_same_bytes(case, tmp_path):
    report(case, tmp_path / "a.html")
    report(case, tmp_path / "b.html")
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


@pytest.mark.parametrize("detections", [[], make_detections([(4, 7, (0, 0, 9, 9), 0.5)])])
@pytest.mark.parametrize("boxes", [[], [(4, 7, (10, 10, 40, 40))]])
def test_nothing_annotated_or_nothing_detected_still_makes_a_page(tmp_path, boxes, detections):
    truth = make_ground_truth(boxes)
    result = evaluate(truth, detections, resamples=5)
    write_report(tmp_path / "r.html", result)
    assert "Detector report" in (tmp_path / "r.html").read_text(encoding="utf-8")


def test_two_detectors_side_by_side(case, tmp_path):
    truth, detections, folder = case
    fewer = detections[: len(detections) // 2]
    results = evaluate(truth, fewer, resamples=0), evaluate(truth, detections, resamples=0)
    comparison = compare(results[0].matched, results[1].matched, ("old", "<new>"), resamples=50)
    write_comparison_report(
        tmp_path / "c.html",
        comparison,
        results,
        image_dir=folder,
    )
    page = Page((tmp_path / "c.html").read_text(encoding="utf-8"))
    assert "new" not in page.tags
    entry = comparison.values["mean_ap"]
    cells = [text for text in page.texts[page.texts.index("mAP@[.5:.95]") + 1 :] if text]
    assert cells[:3] == [f"{entry.first.value:.3f}", f"{entry.second.value:.3f}", f"{entry.difference.value:+.3f}"]
    alts = [image["alt"] for image in page.images]
    assert len(alts) % 3 == 0
    assert {alt.split(":")[0] for alt in alts} <= {"Ground truth", "old", "<new>"}


def test_a_detector_without_an_operating_threshold(case, tmp_path):
    """Its threshold became 0.0: its report showed every detection, a comparison called findings found alone."""
    truth, detections, folder = case
    alarms = [
        {"image_id": image["id"], "category_id": 7, "bbox": [0, 0, 3, 3], "score": 0.9}
        for image in truth["images"]
        for _ in range(2)
    ]
    late = [*alarms, *({**entry, "score": entry["score"] / 1000} for entry in detections)]
    results = evaluate(truth, detections, resamples=0), evaluate(truth, late, resamples=0)
    comparison = compare(results[0].matched, results[1].matched, ("old", "late"), resamples=2)
    write_comparison_report(
        tmp_path / "c.html",
        comparison,
        results,
        image_dir=folder,
    )
    page = (tmp_path / "c.html").read_text(encoding="utf-8")
    assert "late finds nothing at one false positive per image or fewer" in page
    assert "Found by old only" not in page
    write_report(tmp_path / "r.html", results[1], image_dir=folder)
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "it has no operating threshold" in page
    assert "none shown: no threshold" in page
    assert "Worst false alarms" not in page


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", ["a finding whose name is long " * 4, "unbroken" * 12, "$x_{$ of $", "结节"])
def test_names_of_any_length_and_script_leave_room_for_the_axes(name):
    """Long names left axes of no width and a warning of matplotlib's, and dollars were read as formulas."""
    point = Interval(0.1, -0.1, 0.3)
    values = {of_class("voc_ap_40", place): Difference(point, point, point, 0.5) for place in range(3)}
    comparison = Comparison((name, name), values, (name, "B", name), images=3, groups=3, resamples=1, seed=0)
    svg = figures.class_differences(comparison)
    assert "".join(re.findall(r"<text[^>]*>(.*?)</text>", svg)).replace(" ", "").count(name.replace(" ", "")) == 4


def test_curves_lie_on_the_ground_of_the_page_in_light_and_dark():
    svg = figures.precision_recall([])
    grounds = set(re.findall(r"fill: (#[0-9a-f]{6})", svg))
    assert grounds <= {"#ffffff"}, "letters and ground take the page's colours"
    assert "stroke: var(--line)" in svg
