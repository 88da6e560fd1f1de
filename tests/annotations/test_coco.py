"""The COCO file: what build writes, pycocotools reads; what is wrong with a file is said at once."""

import copy
import json
import re

import numpy as np
import pandas as pd
import pytest
from pycocotools.coco import COCO

from cxr_mmdet.annotations.coco import CocoImage, build_coco
from cxr_mmdet.errors import DatasetError
from cxr_mmdet.structures.boxes import XYXY_COLUMNS
from cxr_mmdet.structures.coco import check_coco, read_coco, write_coco

LABELS = ("Nodule/Mass", "Aortic enlargement")


def image(name, *, width=100, height=80, group=None):
    return CocoImage(name, f"{name}.png", width, height, group or name, 4 * width, 4 * height)


def boxes(*rows):
    return pd.DataFrame(rows, columns=["image_id", "class_name", *XYXY_COLUMNS, "votes"])


@pytest.fixture
def coco():
    """Two images, one without a box; two boxes."""
    rows = boxes(("b", "Aortic enlargement", 10, 20, 30, 50.5, 3), ("b", "Nodule/Mass", 1, 2, 4, 6, 1))
    return build_coco([image("b"), image("a", group="P7")], rows, LABELS)


def test_entries_hold_what_the_next_room_needs(coco):
    assert coco["categories"] == [{"id": 1, "name": "Nodule/Mass"}, {"id": 2, "name": "Aortic enlargement"}]
    assert coco["images"][0] == {
        "id": 1,
        "file_name": "a.png",
        "width": 100,
        "height": 80,
        "image_id": "a",
        "group": "P7",
        "original_width": 400,
        "original_height": 320,
    }
    assert [entry["image_id"] for entry in coco["images"]] == ["a", "b"]
    assert coco["annotations"] == [
        {"id": 1, "image_id": 2, "category_id": 1, "bbox": [1, 2, 3, 4], "area": 12, "iscrowd": 0, "votes": 1},
        {
            "id": 2,
            "image_id": 2,
            "category_id": 2,
            "bbox": [10, 20, 20, 30.5],
            "area": 20 * 30.5,
            "iscrowd": 0,
            "votes": 3,
        },
    ]


def test_an_image_names_its_readers_where_they_are_known():
    by_three = CocoImage("a", "a.png", 10, 10, "a", 10, 10, readers=("R1", "R2", "R3"))
    by_nobody = CocoImage("b", "b.png", 10, 10, "b", 10, 10, readers=())
    coco = build_coco([by_three, by_nobody, image("c")], boxes(("a", "Nodule/Mass", 1, 1, 2, 2, 3)), LABELS)
    assert [entry.get("readers", "unknown") for entry in coco["images"]] == [["R1", "R2", "R3"], [], "unknown"]


def test_boxes_are_clipped_to_the_image_and_those_of_others_left_out():
    rows = boxes(
        ("a", "Nodule/Mass", -5, -6, 20, 90, 1),
        ("a", "Other lesion", 1, 1, 2, 2, 1),
        ("elsewhere", "Nodule/Mass", 1, 1, 2, 2, 1),
    )
    coco = build_coco([image("a")], rows, LABELS)
    assert [entry["bbox"] for entry in coco["annotations"]] == [[0, 0, 20, 80]]


def test_a_box_outside_its_image_is_refused():
    with pytest.raises(DatasetError, match="has no extent; width and height must be positive"):
        build_coco([image("a")], boxes(("a", "Nodule/Mass", 101, 1, 110, 2, 1)), LABELS)


def test_the_order_of_images_and_rows_changes_nothing(coco):
    rng = np.random.default_rng(0)
    images = [image(f"{i:02}") for i in range(20)]
    x = rng.uniform(0, 50, (200, 2))
    rows = boxes(
        *((f"{rng.integers(20):02}", LABELS[rng.integers(2)], *low, *(low + rng.uniform(1, 30, 2)), 1) for low in x)
    )
    expected = build_coco(images, rows, LABELS)
    assert build_coco(images[::-1], rows.sample(frac=1, random_state=1), LABELS) == expected


def test_pycocotools_reads_what_is_written(coco, tmp_path):
    write_coco(tmp_path / "train.json", coco)
    index = COCO(tmp_path / "train.json")
    assert index.getImgIds() == [1, 2]
    assert index.getAnnIds(imgIds=2) == [1, 2]
    assert index.getAnnIds(imgIds=1) == []
    assert index.loadCats(index.getCatIds())[1]["name"] == "Aortic enlargement"


def test_round_trip_and_same_bytes(coco, tmp_path):
    write_coco(tmp_path / "one.json", coco)
    assert read_coco(tmp_path / "one.json") == coco
    write_coco(tmp_path / "two.json", dict(reversed(coco.items())))
    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "two.json").read_bytes()


def test_images_without_boxes_are_enough(tmp_path):
    coco = build_coco([image("a")], boxes(), LABELS)
    assert coco["annotations"] == []
    assert len(coco["images"]) == 1


def test_a_box_over_the_whole_image_stays_valid_after_rounding():
    for width in (1 / 3 * 1024, 700.00006):
        coco = build_coco(
            [image("a", width=1024, height=1024)], boxes(("a", LABELS[0], 1024 - width, 0, 1024, 1024, 1)), LABELS
        )
        check_coco(coco)


def test_a_box_that_nobody_believes_in_keeps_a_score_above_0():
    found = boxes(("a", LABELS[0], 0, 0, 9, 9, 1), ("a", LABELS[0], 20, 0, 29, 9, 1)).assign(confidence=[1e-9, 0.12345])
    coco = build_coco([image("a")], found, LABELS)
    assert [each["score"] for each in coco["annotations"]] == [0.0001, 0.1234]


BROKEN = [
    (lambda c: c.pop("images"), "no list of images"),
    (lambda c: c.update(annotations={}), "no list of annotations"),
    (lambda c: c["categories"].clear(), "no category"),
    (lambda c: c["categories"].reverse(), "expected id 1"),
    (lambda c: c["categories"][1].update(name="Nodule/Mass"), "category name 'Nodule/Mass' occurs 2 times"),
    (lambda c: c["categories"][1].update(name=["x"]), "category 2 is"),
    (lambda c: c["images"].append(7), "image number 2 is a number, expected an object"),
    (lambda c: c["images"][0].pop("group"), "image 1 lacks or misspells group"),
    (lambda c: c["images"][0].update(width=0), "image 1 (a.png) has no width"),
    (lambda c: c["images"][0].update(width=True), "image 1 lacks or misspells width"),
    (lambda c: c["images"][0].update(id=2), "image id 2 occurs 2 times"),
    (lambda c: c["images"][0].update(file_name="b.png"), "file_name b.png occurs 2 times"),
    (lambda c: c["images"][0].update(image_id="b"), "image_id b occurs 2 times"),
    (lambda c: c["annotations"][0].pop("votes"), "annotation 1 lacks or misspells votes"),
    (lambda c: c["annotations"][0].update(votes=0), "annotation 1: votes is 0, expected at least 1"),
    (
        lambda c: c["annotations"][0].update(corner_spread=0.1),
        "annotation 1: corner_spread is 0.1, expected four numbers",
    ),
    (lambda c: c["annotations"][0].update(corner_spread=[0.1, -1, 0, 0]), "corner_spread is [0.1, -1, 0, 0], expected"),
    (lambda c: c["images"][1].update(readers="R1"), "image 2 has readers R1, expected a list of distinct names"),
    (lambda c: c["images"][1].update(readers=["A", "B", "C", "A"]), "expected a list of distinct names"),
    (lambda c: c["images"][1].update(readers=["A", "B"]), "annotation 2: votes is 3, but its image was read by"),
    (
        lambda c: (c["images"][1].update(readers=["A", "B", "C"]), c["annotations"][0].update(readers=["D"])),
        "annotation 1: votes is 1 of ['D'], but its image was read by ['A', 'B', 'C']",
    ),
    (lambda c: c["annotations"][1].update(readers=["A", "B"]), "annotation 2: votes is 3, but its readers are"),
    (lambda c: c["annotations"][0].update(id=2), "annotation id 2 occurs 2 times"),
    (
        lambda c: c["annotations"][0].update(image_id=9),
        "annotation 1: image_id 9 is not among the ground truth's images",
    ),
    (
        lambda c: c["annotations"][0].update(category_id=9),
        "annotation 1: category_id 9 is not among the ground truth's categories",
    ),
    (
        lambda c: c["annotations"][0].update(iscrowd=2),
        "annotation 1: iscrowd is 2, expected 0, or 1 for a region to ignore",
    ),
    (lambda c: c["annotations"][0].update(bbox=[1, 2, 0, 4]), "width and height must be positive"),
    (lambda c: c["annotations"][0].update(bbox=[1, 2, 3]), "is not four finite numbers"),
    (lambda c: c["annotations"][0].update(bbox=[1, 2, 3, float("nan")]), "is not four finite numbers"),
    (lambda c: c["annotations"][0].update(bbox=[98, 2, 3, 4]), "is beyond its image of 100 x 80"),
    (lambda c: c["annotations"][0].update(bbox=[-1, 2, 3, 4]), "is beyond its image of 100 x 80"),
    (lambda c: c["annotations"][0].update(area=13), "annotation 1: area is 13, expected 12"),
]


@pytest.mark.parametrize(("break_it", "message"), BROKEN, ids=[message for _, message in BROKEN])
def test_what_is_wrong_is_said(coco, break_it, message):
    broken = copy.deepcopy(coco)
    break_it(broken)
    with pytest.raises(DatasetError, match=re.escape(message)):
        check_coco(broken)
    check_coco(coco)


@pytest.mark.parametrize("content", [None, [], 3, "text"])
def test_json_that_is_no_object_is_refused(content):
    with pytest.raises(DatasetError, match="expected a COCO object with images, annotations and categories"):
        check_coco(content)


def test_many_problems_are_counted_and_the_file_is_named(coco, tmp_path):
    for entry in coco["annotations"]:
        entry.update(votes=0, iscrowd=2, category_id=9, image_id=9)
    with pytest.raises(DatasetError, match="and 3 more"):
        check_coco(coco)
    path = tmp_path / "broken.json"
    path.write_text(json.dumps(coco))
    with pytest.raises(DatasetError, match=re.escape(f"{path}: not a valid COCO file")):
        read_coco(path)


def test_nothing_is_written_when_invalid(coco, tmp_path):
    coco["categories"].clear()
    with pytest.raises(DatasetError):
        write_coco(tmp_path / "train.json", coco)
    assert not list(tmp_path.iterdir())


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(DatasetError, match="no such file"):
        read_coco(tmp_path / "none.json")
    with pytest.raises(DatasetError, match="cannot be read"):
        read_coco(tmp_path)
    (tmp_path / "half.json").write_text('{"images": [')
    with pytest.raises(DatasetError, match="is not JSON"):
        read_coco(tmp_path / "half.json")
