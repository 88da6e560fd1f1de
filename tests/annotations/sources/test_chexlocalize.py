"""CheXlocalize: polygons and run-length encoded masks."""

import json

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from cxr_mmdet.annotations.sources import read_source
from cxr_mmdet.annotations.sources.geometry import ellipse_extent, mask_boxes, points_extent
from cxr_mmdet.errors import TableError
from cxr_mmdet.structures.coverage import Coverage

FIRST, SECOND = "patient64541_study1_view1_frontal", "patient64542_study1_view1_frontal"
POLYGONS = {
    FIRST: {
        "img_size": [320, 390],
        "Edema": [[[10.5, 20], [30, 25], [12, 60]], [[100, 110], [130, 110], [115, 140]]],
        "Support Devices": [[[1, 2], [3, 4], [5, 0]]],
    },
    SECOND: {"img_size": [390, 320], "Cardiomegaly": [[[50, 50], [90, 60], [60, 95]]]},
}


def masks():
    """Return a file of masks: one of two parts and a speck, one empty."""
    two_parts = np.zeros((32, 39), np.uint8)
    two_parts[2:8, 3:9] = two_parts[20:30, 10:15] = two_parts[0, 38] = 1
    encoded = {
        name: coco_mask.encode(np.asfortranarray(mask))
        for name, mask in (("Edema", two_parts), ("Cardiomegaly", np.zeros((32, 39), np.uint8)))
    }
    entries = {name: {"size": [32, 39], "counts": rle["counts"].decode()} for name, rle in encoded.items()}
    return {FIRST: entries, SECOND: {"Cardiomegaly": entries["Cardiomegaly"]}}


def test_polygons_become_boxes_and_other_classes_are_unknown(write, boxes_of):
    image = "CheXpert/val/patient64541/study1/view1_frontal.jpg"
    source = read_source(write({"CheXlocalize/gt_annotations_val.json": json.dumps(POLYGONS), image: (320, 390)}))
    assert source.format == "chexlocalize"
    assert boxes_of(source) == [
        (FIRST, "Edema", (10.5, 20, 30, 60)),
        (FIRST, "Edema", (100, 110, 130, 140)),
        (FIRST, "Support Devices", (1, 0, 5, 4)),
        (SECOND, "Cardiomegaly", (50, 50, 90, 95)),
    ]
    assert source.rows[["table_height", "table_width"]].drop_duplicates().to_numpy().tolist() == [
        [320, 390],
        [390, 320],
    ]
    assert source.rows["group"].unique().tolist() == ["patient64541", "patient64542"]
    assert source.coverage.loc[SECOND].to_dict() == {
        "Cardiomegaly": Coverage.EXHAUSTIVE,
        "Edema": Coverage.UNKNOWN,
        "Support Devices": Coverage.UNKNOWN,
    }
    assert [path.name for path in source.images.values()] == ["view1_frontal.jpg"], "named by its folders"


def test_parts_of_masks_become_boxes_without_specks(write, boxes_of):
    source = read_source(write({"gt_segmentations_val.json": json.dumps(masks())}))
    assert source.format == "chexlocalize"
    assert boxes_of(source) == [(FIRST, "Edema", (3, 2, 9, 8)), (FIRST, "Edema", (10, 20, 15, 30))]
    assert source.unread == (SECOND,), "an empty mask is of a class that its labels do not name"


@pytest.mark.parametrize(
    "entry",
    [
        {"Edema": [[[1, 2], [3, 4]]]},
        {"img_size": [10, 10], "Edema": [[[1, 2], [3]]]},
        {"img_size": [10], "Edema": [[[1, 2], [3, 4]]]},
        {"img_size": [10, 10], "Edema": {"size": [10, 10]}},
        {"img_size": [10, 10], "Edema": 7},
    ],
)
def test_bad_regions_are_named(write, entry):
    with pytest.raises(TableError, match=r"val.json, image 3: the regions of 'Edema' on x cannot be read; expected"):
        read_source(write({"gt_annotations_val.json": json.dumps(POLYGONS | {"x": entry})}))


def test_an_image_without_regions_by_name_is_named(write):
    with pytest.raises(TableError, match=r"val.json, image 3: holds 5, expected the regions of x"):
        read_source(write({"gt_annotations_val.json": json.dumps(POLYGONS | {"x": 5})}))


def test_boxes_around_shapes():
    assert points_extent([3, 9, 1, 12]) == (1, 9, 3, 12)
    # A circle, and an ellipse of half axes 5 and 2 that is turned by the angle of (3, 4).
    assert ellipse_extent([(0, 5), (10, 5)], [(5, 0), (5, 10)]) == (0, 0, 10, 10)
    half = np.hypot([5 * 0.6, 5 * 0.8], [2 * 0.8, 2 * 0.6])
    assert ellipse_extent([(-3, -4), (3, 4)], [(-1.6, 1.2), (1.6, -1.2)]) == pytest.approx((*-half, *half))
    touching = np.eye(12)
    assert mask_boxes(touching) == [(0, 0, 12, 12)], "corners that touch are one part"
    assert mask_boxes(np.eye(3)) == [(0, 0, 3, 3)], "a small region that is alone is no speck"
