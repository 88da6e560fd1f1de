"""The human ceiling: what a detector that draws like a reader would score."""

import json
import os

import numpy as np
import pytest
from detection_cases import evaluate_voc
from reader_tables import drawn_readings, readings

from cxr_mmdet.annotations.ceiling import human_ceiling
from cxr_mmdet.annotations.consensus import fuse_readers
from cxr_mmdet.annotations.table import read_table
from cxr_mmdet.structures.boxes import XYXY_COLUMNS, xyxy_to_xywh
from cxr_mmdet.structures.labels import LABELS_14, NO_FINDING

LABELS = ("Edema", "ILD")
BOX, FAR = (0, 0, 10, 10), (50, 50, 60, 60)
FEW = {"resamples": 40}


def ceiling(rows, splits=None, **options):
    groups = {image: image for image in rows["image_id"].unique()}
    splits = splits or {"all": list(groups)}
    return human_ceiling(rows, LABELS, groups, splits, fusion={}, **(FEW | options))


def voc_of_reader(rows, reader, images):
    """Return VOC's mAP of one reader by way of COCO dicts and the function that scores detectors."""
    rows = rows[rows["image_id"].isin(images)]
    both = rows.groupby("image_id")["reader"].agg(set)
    shared = [image for image in images if reader in both[image] and len(both[image]) > 1]
    consensus = fuse_readers(rows[rows["image_id"].isin(shared) & (rows["reader"] != reader)])
    own = rows[rows["image_id"].isin(shared) & (rows["reader"] == reader) & (rows["class_name"] != NO_FINDING)]

    def entries(frame):
        boxes = xyxy_to_xywh(frame[XYXY_COLUMNS].to_numpy())
        return [
            {"id": n, "image_id": shared.index(i), "category_id": LABELS.index(c) + 1, "bbox": list(b), "score": 1.0}
            for n, (i, c, b) in enumerate(zip(frame["image_id"], frame["class_name"], boxes.tolist(), strict=True))
        ]

    truth = {
        "images": [{"id": number} for number in range(len(shared))],
        "categories": [{"id": number, "name": name} for number, name in enumerate(LABELS, 1)],
        "annotations": entries(consensus),
    }
    return evaluate_voc(truth, entries(own)).mean_ap


def test_readers_who_agree_in_all_reach_one():
    rows = readings(
        *((image, "Edema", reader, BOX) for image in "abc" for reader in ("R1", "R2")),
        *((image, "ILD", reader, FAR) for image in "ab" for reader in ("R1", "R2")),
        ("d", NO_FINDING, "R1", None),
        ("d", NO_FINDING, "R2", None),
    )
    result = ceiling(rows)["all"]
    assert result["images"] == 4
    assert result["voc_mean_ap_40"] == result["mean_ap_50"] == result["mean_ap"] == {"value": 1, "low": 1, "high": 1}
    assert result["readers"]["R1"] | {"images": 4, "images_with_boxes": 3} == result["readers"]["R1"]


def test_precision_times_recall_by_hand():
    rows = readings(
        ("a", "Edema", "R1", BOX),
        ("a", "Edema", "R2", BOX),
        ("b", "Edema", "R1", BOX),
        ("b", NO_FINDING, "R2", None),
        ("c", NO_FINDING, "R1", None),
        ("c", "Edema", "R2", BOX),
        ("c", "Edema", "R2", FAR),
    )
    result = ceiling(rows)["all"]
    # R1 finds 1 of R2's 3 boxes with 2 of its own; R2 finds 1 of R1's 2 with 3.
    assert result["readers"]["R1"]["voc_mean_ap_40"]["value"] == pytest.approx(1 / 3 * 1 / 2)
    assert result["readers"]["R2"]["voc_mean_ap_40"]["value"] == pytest.approx(1 / 2 * 1 / 3)
    assert result["per_class"][0]["ap_50"]["value"] == pytest.approx(1 / 6)
    assert result["per_class"][1] == {"name": "ILD", **dict.fromkeys(["voc_ap_40", "ap_50"], NOTHING)}


NOTHING = {"value": None, "low": None, "high": None}


@pytest.mark.parametrize("marked_by", ["R1", "R2", "R3"])
def test_a_box_in_a_region_to_ignore_is_no_false_alarm_and_a_region_no_box(marked_by):
    """R1 alone drew a box in the region, which R1, R2 or a third reader marked."""
    found = [("a", "Edema", "R1", BOX), ("a", "Edema", "R2", BOX)]
    alone = ("a", "Edema", "R1", (52, 52, 58, 58))
    rows = readings(*found, alone, ("a", "Edema", marked_by, FAR))
    region = np.arange(len(rows)) == len(rows) - 1
    result = ceiling(rows.assign(iscrowd=region))["all"]
    assert result["readers"]["R1"]["voc_mean_ap_40"]["value"] == 1
    assert result["readers"]["R1"]["mean_ap"]["value"] == 1
    assert ceiling(readings(*found, alone))["all"]["readers"]["R1"]["voc_mean_ap_40"]["value"] == pytest.approx(1 / 2)


def test_an_image_with_regions_alone_has_no_part_in_the_ceiling():
    found = [("a", "Edema", "R1", BOX), ("a", "Edema", "R2", BOX)]
    rows = readings(*found, ("b", "Edema", "R1", FAR), ("b", "Edema", "R2", FAR))
    result = ceiling(rows.assign(iscrowd=[False, False, True, True]))["all"]
    assert result["voc_mean_ap_40"]["value"] == 1
    assert result["readers"]["R1"]["images_with_boxes"] == 1


def test_the_headline_is_weighted_by_images_with_boxes():
    rows = readings(
        *((image, "Edema", reader, BOX) for image in "abc" for reader in ("R1", "R2")),
        ("d", "Edema", "R3", BOX),
        ("d", "Edema", "R4", FAR),
        *((f"n{number}", NO_FINDING, reader, None) for number in range(50) for reader in ("R3", "R4")),
    )
    result = ceiling(rows)["all"]
    values = {reader: entry["voc_mean_ap_40"]["value"] for reader, entry in result["readers"].items()}
    assert values == {"R1": 1, "R2": 1, "R3": 0, "R4": 0}
    assert result["voc_mean_ap_40"]["value"] == pytest.approx((3 + 3 + 0 + 0) / (3 + 3 + 1 + 1))


@pytest.mark.parametrize("seed", range(3))
def test_each_reader_scores_what_the_detectors_function_says(seed):
    rows = drawn_readings(seed, images=40)
    images = sorted(rows["image_id"].unique())
    halves = {"train": images[:25], "val": images[25:]}
    result = ceiling(rows, halves, resamples=1)
    for split, members in halves.items():
        for reader, entry in result[split]["readers"].items():
            expected = voc_of_reader(rows, reader, members)
            assert entry["voc_mean_ap_40"]["value"] == pytest.approx(expected), (split, reader)


def test_one_reader_or_no_shared_image_has_no_ceiling():
    rows = readings(("a", "Edema", "R1", BOX), ("b", "Edema", "R2", BOX))
    assert ceiling(rows, {"all": ["a", "b"], "val": []}) == {"all": None, "val": None}


def test_a_split_without_shared_images_is_none_and_others_stay():
    rows = readings(("a", "Edema", "R1", BOX), ("a", "Edema", "R2", BOX), ("b", "Edema", "R1", BOX))
    result = ceiling(rows, {"train": ["a"], "val": ["b"]})
    assert result["val"] is None
    # A single group leaves nothing to draw from: no interval.
    assert result["train"]["mean_ap"] == {"value": 1, "low": None, "high": None}


def test_images_outside_the_groups_do_not_count():
    rows = readings(*((image, "Edema", reader, BOX) for image in "ab" for reader in ("R1", "R2")))
    result = human_ceiling(rows, LABELS, {"a": "a"}, {"all": ["a", "b"]}, fusion={}, **FEW)
    assert result["all"]["images"] == 1


def test_order_names_and_scale_change_nothing_and_intervals_hold_the_value():
    rows = drawn_readings(4)
    expected = ceiling(rows)
    json.dumps(expected, allow_nan=False)
    assert ceiling(rows.sample(frac=1, random_state=1)) == expected
    scaled = rows.copy()
    scaled[XYXY_COLUMNS] *= [4.0, 0.5, 4.0, 0.5]
    assert ceiling(scaled) == expected
    renamed = ceiling(rows.assign(reader=rows["reader"].map(dict(zip("ABCD", "zxyw", strict=True)))))
    for key in ("voc_mean_ap_40", "mean_ap_50", "mean_ap"):
        measure = expected["all"][key]
        assert renamed["all"][key]["value"] == pytest.approx(measure["value"])
        assert measure["low"] <= measure["value"] <= measure["high"]
        assert 0 < measure["low"] < measure["high"] < 1


def test_groups_are_drawn_whole():
    rows = drawn_readings(2)
    images = sorted(rows["image_id"].unique())
    one = human_ceiling(rows, LABELS, dict.fromkeys(images, "p"), {"all": images}, fusion={}, **FEW)["all"]["mean_ap"]
    assert one["low"] is None
    many = ceiling(rows)["all"]["mean_ap"]
    assert many["low"] is not None
    assert one["value"] == many["value"]


@pytest.mark.slow
@pytest.mark.vinbigdata
def test_vinbigdata_has_a_ceiling():
    path = os.environ.get("CXR_VINBIGDATA_TABLE")
    if not path:
        pytest.skip("CXR_VINBIGDATA_TABLE does not name the table")
    rows = read_table(path)
    groups = {image: image for image in rows["image_id"].unique()}
    result = human_ceiling(rows, LABELS_14, groups, {"all": groups}, fusion={}, resamples=25)["all"]
    assert result["images"] == 15_000
    assert len(result["readers"]) == 17
    assert result["voc_mean_ap_40"]["value"] == pytest.approx(0.2249, abs=5e-4)
    assert result["mean_ap_50"]["value"] == pytest.approx(0.1919, abs=5e-4)
    per_class = {entry["name"]: entry["voc_ap_40"]["value"] for entry in result["per_class"]}
    assert max(per_class, key=per_class.get) == "Cardiomegaly"
    assert np.all([value > 0.05 for value in per_class.values()])
