import pytest

from benchmarks.evaluate import (
    benchmark_coco,
    benchmark_growth,
    benchmark_headline,
    draw_growth,
    make_case,
    pycocotools_map,
)
from cxr_mmdet.evaluation.coco import evaluate_coco
from cxr_mmdet.structures.coco import check_coco, check_detections


def test_the_case_is_valid_and_as_large_as_asked():
    truth, found = make_case(40, 20)
    check_coco(truth, strict=False)
    check_detections(found, truth)
    assert len(truth["images"]) == 40
    assert len({image["group"] for image in truth["images"]}) == 21
    counts = [sum(entry["image_id"] == image["id"] for entry in found) for image in truth["images"]]
    assert min(counts) == 20
    assert 0.05 < evaluate_coco(truth, found).mean_ap < 0.9
    assert make_case(40, 20) == (truth, found)


def test_pycocotools_leaves_its_input_alone():
    truth, found = make_case(5, 4)
    before = repr((truth, found))
    assert pycocotools_map(truth, found) == pytest.approx(evaluate_coco(truth, found).mean_ap, abs=1e-9)
    assert repr((truth, found)) == before


def test_every_library_is_timed_after_it_gave_the_same_number():
    comparison = benchmark_coco(30, 10, rounds=2)
    assert [entry.name for entry in comparison.timings] == ["pycocotools", "faster-coco-eval", "cxr_mmdet (hotcoco)"]
    assert comparison.speed_up(comparison.timings[0]).median == 1.0
    assert all(len(entry.cpu_s) == 2 for entry in comparison.timings)


def test_headline_and_growth(tmp_path, monkeypatch):
    headline = benchmark_headline(30, 10, resamples=5, memory=True)
    assert headline.match_s > 0
    assert headline.resample_s > 0
    assert headline.wall_s > 0
    monkeypatch.setattr("benchmarks.evaluate.SCALING_IMAGES", (5, 10))
    monkeypatch.setattr("benchmarks.evaluate.SCALING_DETECTIONS", (4, 8))
    monkeypatch.setattr("benchmarks.evaluate.SCALING_FIXED", (10, 5))
    done = []
    grown = benchmark_growth(resamples=2, pycocotools_up_to=60, progress=lambda step, total: done.append((step, total)))
    assert [[entry.pycocotools_s is not None for entry in series] for series in grown] == [[True, True], [True, False]]
    assert done == [(1, 4)] * 4
    draw_growth(tmp_path / "growth.png", grown, 2)
    assert (tmp_path / "growth.png").stat().st_size > 5000
