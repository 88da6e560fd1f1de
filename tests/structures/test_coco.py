import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cxr_mmdet.errors import DatasetError
from cxr_mmdet.evaluation.coco import evaluate_coco
from cxr_mmdet.structures.coco import (
    check_detections,
    detections_from_arrays,
    hints_on_boxes,
    notes_on_detections,
    read_coco,
    read_detections,
    sort_detections,
    write_detections,
)


def make_ground_truth():
    return {
        "images": [{"id": 3, "width": 100, "height": 80, "file_name": "a.png"}, {"id": 9, "width": 50, "height": 50}],
        "categories": [{"id": 1, "name": "Cardiomegaly"}, {"id": 4, "name": "ILD"}],
        "annotations": [{"id": 1, "image_id": 3, "category_id": 4, "bbox": [1, 2, 30, 40], "area": 1200, "iscrowd": 0}],
    }


def make_detection(**changes):
    return {"image_id": 3, "category_id": 4, "bbox": [1.5, 2.0, 30.0, 40.25], "score": 0.75} | changes


def write(path, value):
    path.write_text(json.dumps(value), encoding="utf-8")
    return path


def test_ground_truth_is_read_as_it_stands(tmp_path):
    path = write(tmp_path / "val.json", make_ground_truth())
    assert read_coco(path, strict=False) == make_ground_truth()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.pop("images"), "no list of images"),
        (lambda d: d.pop("annotations"), "no list of annotations"),
        (lambda d: d.update(categories={}), "no list of categories"),
        (lambda d: d["images"].append({"id": 3}), "image id 3 occurs 2 times"),
        (lambda d: d["categories"].append({"id": 1, "name": "x"}), "category id 1 occurs 2 times"),
        (lambda d: d["categories"].append({"id": 2, "name": "ILD"}), "category name 'ILD' occurs 2 times"),
        (lambda d: d["categories"].append({"id": 2}), "category 2 has the name None, expected text"),
        (lambda d: d["images"].append({"id": "7"}), "image number 2 has the id '7'"),
        (lambda d: d["images"].append({"id": True}), "image number 2 has the id True"),
        (lambda d: d["images"].append("7"), "image number 2 is a string, expected an object"),
        (lambda d: d["annotations"].append(dict(d["annotations"][0])), "annotation id 1 occurs 2 times"),
        (lambda d: d["annotations"][0].update(image_id=5), "annotation 1: image_id 5 is not among"),
        (lambda d: d["annotations"][0].update(category_id=5), "annotation 1: category_id 5 is not among"),
        (lambda d: d["annotations"][0].pop("category_id"), "annotation 1: category_id is missing"),
        (lambda d: d["annotations"][0].update(image_id={}), "annotation 1: image_id is {}, a JSON object"),
        (lambda d: d["annotations"][0].update(bbox=[0, 0, 0, 5]), "width and height must be positive"),
        (lambda d: d["annotations"][0].update(bbox=[0, 0, float("nan"), 5]), "is not four finite numbers"),
    ],
)
def test_ground_truth_that_cannot_be_scored_against_is_refused(tmp_path, change, message):
    ground_truth = make_ground_truth()
    change(ground_truth)
    path = write(tmp_path / "val.json", ground_truth)
    with pytest.raises(DatasetError) as caught:
        read_coco(path, strict=False)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [("{", "is not JSON"), ("[]", "holds a list, expected a COCO object"), ("3", "holds a number"), ("null", "null")],
)
def test_ground_truth_of_another_kind_is_refused(tmp_path, content, message):
    path = tmp_path / "val.json"
    path.write_text(content)
    with pytest.raises(DatasetError, match=message):
        read_coco(path, strict=False)


def test_missing_and_unreadable_files_are_named(tmp_path):
    with pytest.raises(DatasetError, match=r"gone\.json: no such file"):
        read_coco(tmp_path / "gone.json", strict=False)
    with pytest.raises(DatasetError, match="cannot be read"):
        read_detections(tmp_path, make_ground_truth())
    binary = tmp_path / "binary.json"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DatasetError, match="is not JSON"):
        read_detections(binary, make_ground_truth())


def test_detections_keep_their_order_and_lose_other_keys(tmp_path):
    entries = [make_detection(segmentation=[[1, 2]], score=0.1), make_detection(score=1), make_detection(score=0.0)]
    path = write(tmp_path / "detections.json", entries)
    assert read_detections(path, make_ground_truth()) == [
        make_detection(score=0.1),
        make_detection(score=1),
        make_detection(score=0.0),
    ]


def test_no_detections_are_legal(tmp_path):
    assert read_detections(write(tmp_path / "none.json", []), make_ground_truth()) == []


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (make_detection(image_id=4), "image_id 4 is not among"),
        (make_detection(image_id="3"), "image_id is '3', a string, expected an integer"),
        (make_detection(category_id=2), "category_id 2 is not among"),
        (make_detection(image_id=3.0), "image_id is 3.0, a number with a decimal point, expected an integer"),
        (make_detection(category_id=True), "category_id is True, a truth value"),
        ({"image_id": 3, "bbox": [0, 0, 1, 1], "score": 1}, "category_id is missing"),
        (make_detection(bbox=[0, 0, float("nan"), 1]), "is not four finite numbers"),
        (make_detection(bbox=[0, 0, float("inf"), 1]), "is not four finite numbers"),
        (make_detection(bbox=[0, 0, 1]), "is not four finite numbers"),
        (make_detection(bbox=[0, 0, 1, "1"]), "is not four finite numbers"),
        (make_detection(bbox=None), "is not four finite numbers"),
        (
            make_detection(bbox=[5, 5, -1, 4]),
            "has a negative width or height; COCO results hold x_min, y_min, width and",
        ),
        (make_detection(score=1.01), "score 1.01 of image 3"),
        (make_detection(score=-0.01), "score -0.01 of image 3"),
        (make_detection(score=float("nan")), "score nan of image 3"),
        (make_detection(score=None), "score None of image 3"),
        ("box", "a string, expected an object"),
    ],
)
def test_a_bad_entry_is_named_with_its_place(tmp_path, entry, message):
    path = write(tmp_path / "detections.json", [make_detection(), entry])
    with pytest.raises(DatasetError) as caught:
        read_detections(path, make_ground_truth())
    assert f"{path}, entry 1: " in str(caught.value)
    assert message in str(caught.value)


def test_results_that_are_not_a_list_are_refused(tmp_path):
    path = write(tmp_path / "detections.json", make_ground_truth())
    with pytest.raises(DatasetError, match="holds a JSON object, expected a list"):
        read_detections(path, make_ground_truth())


detections = st.lists(
    st.builds(
        make_detection,
        image_id=st.sampled_from([3, 9]),
        category_id=st.sampled_from([1, 4]),
        bbox=st.lists(st.floats(0.5, 60), min_size=4, max_size=4),
        score=st.sampled_from([0.0, 0.25, 0.25 + 1e-12, 1.0]),
    ),
    max_size=12,
)


@settings(max_examples=60)
@given(detections, st.randoms(use_true_random=False))
def test_written_bytes_and_scores_do_not_depend_on_the_order(tmp_path_factory, entries, random):
    folder = tmp_path_factory.mktemp("order")
    shuffled = random.sample(entries, len(entries))
    write_detections(folder / "a.json", entries)
    write_detections(folder / "b.json", shuffled)
    assert (folder / "a.json").read_bytes() == (folder / "b.json").read_bytes()
    read_back = read_detections(folder / "a.json", make_ground_truth())
    assert read_back == sort_detections(entries)
    assert evaluate_coco(make_ground_truth(), read_back) == evaluate_coco(
        make_ground_truth(), sort_detections(shuffled)
    )


def test_sorted_by_image_then_falling_score():
    entries = [make_detection(image_id=9, score=0.9), make_detection(score=0.2), make_detection(score=0.8)]
    assert [(e["image_id"], e["score"]) for e in sort_detections(entries)] == [(3, 0.8), (3, 0.2), (9, 0.9)]


def test_arrays_become_entries_and_boxes_without_extent_are_dropped():
    boxes = np.array([[1, 2, 11, 22], [5, 5, 5, 30], [0, 7, 8, 7]], dtype=np.float32)
    entries = detections_from_arrays(3, boxes, np.array([0.5, 0.9, 0.8], dtype=np.float32), np.array([4, 1, 1]))
    assert entries == [{"image_id": 3, "category_id": 4, "bbox": [1.0, 2.0, 10.0, 20.0], "score": 0.5}]
    check_detections(entries, make_ground_truth())
    assert detections_from_arrays(3, np.zeros((0, 4)), [], []) == []


def images_of_200(count):
    return {
        "images": [{"id": number, "width": 200, "height": 200} for number in range(1, count + 1)],
        "categories": [{"id": 4, "name": "ILD"}],
        "annotations": [],
    }


BOXES_XYWH = [[x, y, 40, 30] for x in (10, 60, 110, 150) for y in (20, 80, 140, 165)]


@pytest.mark.parametrize(
    ("boxes", "hint"),
    [
        (BOXES_XYWH, None),
        ([[x / 200, y / 200, w / 200, h / 200] for x, y, w, h in BOXES_XYWH], "look normalised to 0…1"),
        ([[x, y, x + w, y + h] for x, y, w, h in BOXES_XYWH], "fit as x_min, y_min, x_max, y_max"),
        ([[5 * x + 200, 5 * y, 5 * w, 5 * h] for x, y, w, h in BOXES_XYWH], "lie outside their image"),
        ([[x, y, 0.2, 0.3] for x, y, _, _ in BOXES_XYWH], "are below a pixel"),
        ([*BOXES_XYWH, [250, 10, 5, 5]], None),
    ],
)
def test_boxes_in_another_format_get_a_hint(boxes, hint):
    entries = [make_detection(bbox=box) for box in boxes]
    hints = hints_on_boxes(images_of_200(3), entries, "detections")
    assert bool(hints) == (hint is not None)
    if hint:
        assert hint in hints[0]
        assert "expected are x_min, y_min, width and height" in hints[0]


def test_hints_need_no_image_sizes_and_no_boxes():
    truth = make_ground_truth()
    for image in truth["images"]:
        image.pop("width", None)
    assert hints_on_boxes(truth, [make_detection(bbox=[900, 900, 5, 5])], "detections") == []
    assert hints_on_boxes(truth, [], "boxes") == []


def test_a_detection_without_extent_is_read_and_noted(tmp_path):
    """Detectors write such at a border: they were refused with all the others."""
    path = write(tmp_path / "detections.json", [make_detection(bbox=[5, 5, 4, 0]), make_detection()])
    found = read_detections(path, make_ground_truth())
    assert notes_on_detections(make_ground_truth(), found) == [
        "1 of 2 detections without width or height; such boxes count as false positives, as in pycocotools."
    ]
