"""PadChest-GR: boxes in fractions of images of any size."""

import json

import pytest

from cxr_mmdet.annotations.sources import read_source
from cxr_mmdet.errors import TableError
from cxr_mmdet.structures.coverage import Coverage

FRACTIONS, EXTRA = [0.25, 0.5, 0.75, 0.875], [0.0, 0.25, 0.5, 1.0]
STUDIES = [
    {
        "StudyID": "s1",
        "ImageID": "1_2.png",
        "findings": [
            {
                "sentence_en": "Nodule.",
                "abnormal": True,
                "labels": ["nodule"],
                "boxes": [FRACTIONS],
                "extra_boxes": [EXTRA],
            },
            {"sentence_en": "Heart of normal size.", "abnormal": False},
        ],
    },
    {"StudyID": "s2", "ImageID": "3_4.png", "findings": [{"sentence_en": "No findings.", "abnormal": False}]},
    {
        "StudyID": "s3",
        "ImageID": "5_6.png",
        "findings": [{"sentence_en": "Kyphosis.", "abnormal": True, "labels": ["kyphosis"], "boxes": []}],
    },
]


def test_fractions_become_pixels_of_the_image(write, boxes_of):
    height, width = 30, 20
    root = write({"grounded_reports_20240819.json": json.dumps(STUDIES), "PadChest_GR/1_2.png": (height, width)})
    source = read_source(root)
    assert source.format == "padchest-gr"
    assert boxes_of(source) == [
        ("1_2", "nodule", (0.25 * width, 0.5 * height, 0.75 * width, 0.875 * height)),
        ("1_2", "nodule", (0.0, 0.25 * height, 0.5 * width, height)),
        ("3_4", "No finding", None),
        ("5_6", "No finding", None),
    ]
    assert source.rows["reader"].tolist() == ["R1", "R2", "R1", "R1"], "extra_boxes are a second reader's"
    assert source.rows.loc[0, ["table_height", "table_width"]].tolist() == [height, width]
    assert source.rows["group"].tolist() == ["s1", "s1", "s2", "s3"]
    assert source.coverage.loc["5_6"].to_dict() == {
        "kyphosis": Coverage.NOT_EXHAUSTIVE,  # present, but nobody knows where
        "nodule": Coverage.EXHAUSTIVE,
    }
    assert source.normal == {"3_4"}
    assert (source.coverage.loc[["1_2", "3_4"]] == Coverage.EXHAUSTIVE).all(axis=None)


@pytest.mark.parametrize("box", [[10, 20, 30, 40], [0.1, 0.2, 0.3], [-0.1, 0, 0.5, 0.5], [0, 0, "1", 1], None])
def test_boxes_that_are_no_fractions_are_named(write, box):
    finding = {"abnormal": True, "labels": ["nodule"], "boxes": [box]}
    studies = [*STUDIES, {"StudyID": "s4", "ImageID": "7_8.png", "findings": [finding]}]
    with pytest.raises(TableError, match=r"reports.json, image 4: has the box .*; expected .* in fractions"):
        read_source(write({"grounded_reports.json": json.dumps(studies)}))


def test_a_finding_without_a_label_is_no_normal_chest(write, boxes_of):
    finding = {"abnormal": True, "labels": [], "boxes": [FRACTIONS]}
    studies = [*STUDIES, {"StudyID": "s4", "ImageID": "7_8.png", "findings": [finding]}]
    source = read_source(write({"grounded_reports.json": json.dumps(studies)}))
    assert boxes_of(source)[-1] == ("7_8", "No finding", None)
    assert source.normal == {"3_4"}


@pytest.mark.parametrize("key", ["boxes", "labels"])
def test_what_is_no_list_is_named(write, key):
    finding = {"abnormal": True, "labels": ["nodule"], "boxes": []} | {key: 5}
    with pytest.raises(TableError, match=rf"reports.json, image 1: its {key} are 5, expected a list"):
        read_source(write({"reports.json": json.dumps([{"ImageID": "a.png", "findings": [finding]}])}))


def test_a_study_without_its_image_is_named(write):
    with pytest.raises(TableError, match=r"reports.json, image 4: has no ImageID"):
        read_source(write({"grounded_reports.json": json.dumps([*STUDIES, {"StudyID": "s4", "findings": []}])}))
