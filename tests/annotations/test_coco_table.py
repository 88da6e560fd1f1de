"""Boxes of any tool's COCO file, as readers' rows."""

import json
import re

import pytest

from cxr_mmdet.annotations.coco import read_coco_table
from cxr_mmdet.annotations.table import class_names
from cxr_mmdet.errors import DatasetError, TableError
from cxr_mmdet.structures.boxes import XYXY_COLUMNS

CATEGORIES = [{"id": 7, "name": "Right lung"}, {"id": 2, "name": "Left lung"}]


@pytest.fixture
def coco(tmp_path):
    """Write a COCO file and return its path."""

    def write(images, annotations, categories=CATEGORIES):
        path = tmp_path / "boxes.json"
        content = {
            "images": [{"id": 10 * number, **image} for number, image in enumerate(images, start=1)],
            "annotations": [{"id": number, **each} for number, each in enumerate(annotations)],
            "categories": categories,
        }
        path.write_text(json.dumps(content))
        return path

    return write


def test_boxes_names_and_empty_images_come_through(coco):
    images = [{"file_name": "train/a.b.dicom"}, {"file_name": "x\\c.png", "image_id": "c/1".replace("/", "-")}]
    rows = read_coco_table(coco(images, [{"image_id": 10, "category_id": 2, "bbox": [1, 2, 3, 4.5]}]))
    assert rows["image_id"].tolist() == ["a.b", "c-1"]
    assert rows["class_name"].tolist() == ["Left lung", "No finding"]
    assert rows.loc[0, XYXY_COLUMNS].tolist() == [1, 2, 4, 6.5]
    assert rows.loc[1, XYXY_COLUMNS].isna().all()
    assert rows["reader"].tolist() == ["R1", "R1"]
    assert class_names(rows) == ("Left lung",)


def test_classes_keep_the_files_order(coco):
    boxes = [{"image_id": 10, "category_id": number, "bbox": [0, 0, 1, number]} for number in (2, 7)]
    assert class_names(read_coco_table(coco([{"file_name": "a.png"}], boxes))) == ("Right lung", "Left lung")


def test_readers_who_drew_nothing_read_the_image_all_the_same(coco):
    box = {"category_id": 7, "bbox": [0, 0, 1, 1]}
    images = [{"file_name": "a.png"}, {"file_name": "b.png", "readers": ["B"]}]
    rows = read_coco_table(
        coco(images, [{"image_id": 10, "rad_id": "A", **box}, {"image_id": 20, "reader": "B", **box}])
    )
    readings = set(rows[["image_id", "reader", "class_name"]].itertuples(index=False, name=None))
    assert readings == {("a", "A", "Right lung"), ("a", "B", "No finding"), ("b", "B", "Right lung")}


def test_fused_boxes_are_nobodys_so_that_no_listed_reader_denies_them(coco):
    box = {"image_id": 10, "category_id": 7, "bbox": [0, 0, 1, 1], "votes": 2, "readers": ["A", "B"]}
    images = [{"file_name": "a.png", "readers": ["A", "B", "C"]}, {"file_name": "b.png", "readers": ["A", "B", "C"]}]
    rows = read_coco_table(coco(images, [box]))
    readings = set(rows[["image_id", "reader", "class_name"]].itertuples(index=False, name=None))
    assert readings == {("a", "R1", "Right lung"), ("b", "R1", "No finding")}


def test_a_key_names_the_group(coco):
    path = coco([{"file_name": "a.png", "patient": 3}, {"file_name": "b.png", "patient": 3}], [])
    assert read_coco_table(path, group_column="patient")["group"].tolist() == ["3", "3"]
    with pytest.raises(TableError, match="image 10: has no study"):
        read_coco_table(path, group_column="study")


@pytest.mark.parametrize("key", ["patient", "patientId", "group"])
def test_the_patient_is_the_group_without_being_asked_for(coco, key):
    groups = read_coco_table(coco([{"file_name": "a.png", key: 3}, {"file_name": "b.png"}], []))["group"]
    assert groups[0] == "3"
    assert groups.isna().tolist() == [False, True]


@pytest.mark.parametrize(
    ("images", "annotation", "message"),
    [
        ([{}], {}, "image 10: has neither image_id nor file_name"),
        ([{"file_name": "a.png"}, {"file_name": "x/a.jpg"}], {}, "2 images are named 'a'"),
        ([{"file_name": "a.png"}], {"rad_id": None}, None),
        ([], None, "holds no image"),
    ],
)
def test_images_that_are_not_named_are_refused(coco, images, annotation, message):
    box = {"image_id": 10, "category_id": 7, "bbox": [0, 0, 1, 1]}
    path = coco(images, [] if annotation is None else [box | annotation])
    if message is None:
        assert read_coco_table(path)["reader"].tolist() == ["R1"]
        return
    with pytest.raises(TableError, match=re.escape(message)):
        read_coco_table(path)


def test_a_reader_that_only_some_annotations_name_is_refused(coco):
    boxes = [{"image_id": 10, "category_id": 7, "bbox": [0, 0, 1, 1], **who} for who in ({"rad_id": "A"}, {})]
    with pytest.raises(TableError, match="annotation with id 1: its reader is None"):
        read_coco_table(coco([{"file_name": "a.png"}], boxes))


def test_a_repeated_box_is_named_by_its_annotation(coco):
    box = {"image_id": 10, "category_id": 7, "bbox": [0, 0, 1, 1]}
    with pytest.raises(TableError, match=r"boxes\.json, annotation 2: repeats an earlier row"):
        read_coco_table(coco([{"file_name": "a.png"}], [box, box]))


@pytest.mark.parametrize("key", ["iscrowd", "ignore"])
def test_regions_to_ignore_are_no_findings(coco, key):
    """They became ordinary truth."""
    box = {"image_id": 10, "category_id": 7, "bbox": [0, 0, 5, 5]}
    region = {"image_id": 10, "category_id": 7, "bbox": [9, 9, 5, 5]}
    rows = read_coco_table(coco([{"file_name": "a.png"}], [box | {key: 0}, region | {key: 1}]))
    assert rows["iscrowd"].tolist() == [False, True]
    assert "iscrowd" not in read_coco_table(coco([{"file_name": "a.png"}], [box | {key: 0}]))
    with pytest.raises(TableError, match=r"annotation with id 0: has iscrowd and ignore .* expected 0 or 1"):
        read_coco_table(coco([{"file_name": "a.png"}], [box | {key: 2}]))


def test_what_is_no_coco_file_is_refused(tmp_path):
    (tmp_path / "x.json").write_text("[]")
    with pytest.raises(DatasetError, match="expected a COCO object"):
        read_coco_table(tmp_path / "x.json")


def test_categories_that_mean_the_same_are_one_class_and_normal_is_none(coco):
    categories = [{"id": number, "name": name} for number, name in enumerate(("ild", "Normal", "ILD"))]
    boxes = [
        {"image_id": 10, "category_id": 0, "bbox": [0, 0, 5, 5]},
        {"image_id": 20, "category_id": 1, "bbox": [0, 0, 1, 1]},
        {"image_id": 30, "category_id": 2, "bbox": [0, 0, 5, 5]},
        {"image_id": 40, "category_id": 2, "bbox": [0, 0, 5, 5]},
    ]
    notes: list[str] = []
    rows = read_coco_table(coco([{"file_name": f"{name}.png"} for name in "abcde"], boxes, categories), notes=notes)
    assert class_names(rows) == ("ILD",)
    assert rows.set_index("image_id")["class_name"].to_dict() == {
        "a": "ILD",
        "b": "No finding",
        "c": "ILD",
        "d": "ILD",
        "e": "No finding",
    }
    assert len(notes) == 2
