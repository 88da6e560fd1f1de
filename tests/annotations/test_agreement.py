"""How far readers agree, by hand, whatever the order and the names."""

import json
import os

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reader_tables import drawn_readings, readings

from cxr_mmdet.annotations.agreement import label_agreement, measure_agreement
from cxr_mmdet.annotations.table import read_table
from cxr_mmdet.structures.boxes import XYXY_COLUMNS, iou_matrix
from cxr_mmdet.structures.labels import LABELS_14, NO_FINDING

LABELS = ("Edema", "ILD")
BOX, NEAR, FAR = (0, 0, 10, 10), (0, 0, 10, 12), (50, 50, 60, 60)


def test_two_readers_by_hand():
    rows = readings(
        ("a", "Edema", "R1", BOX),
        ("a", "Edema", "R2", NEAR),
        ("a", "Edema", "R2", FAR),
        ("a", "ILD", "R1", BOX),
        ("b", NO_FINDING, "R1", None),
        ("b", "Edema", "R2", BOX),
        ("c", NO_FINDING, "R1", None),
        ("c", NO_FINDING, "R2", None),
        ("d", "ILD", "R1", BOX),
    )
    agreement = measure_agreement(rows, LABELS)
    assert agreement["images"] == 3
    # The box on d, which nobody else read, can meet nothing and does not count.
    assert agreement["readers"] == [
        {"reader": "R1", "images": 4, "boxes": 3, "met": 1 / 2},
        {"reader": "R2", "images": 3, "boxes": 3, "met": 1 / 3},
    ]
    edema, ild = agreement["per_class"]
    assert (edema["boxes"], edema["met"], edema["f1"]) == (4, 2 / 4, 2 * 1 / 4)
    assert (ild["boxes"], ild["met"], ild["f1"]) == (2, 0, 0)
    (pair,) = agreement["pairs"]
    assert (pair["readers"], pair["images"]) == (["R1", "R2"], 3)
    assert pair["met"] == [1 / 2, 1 / 3]
    assert pair["f1"] == 2 * 1 / 5
    # Of three images R1 sees Edema on a, R2 on a and b: observed 2/3, expected 1/3 * 2/3 + 2/3 * 1/3.
    assert pair["per_class"][0] == {
        "name": "Edema",
        "boxes": [1, 3],
        "met": [1, 1 / 3],
        "f1": 1 / 2,
        "kappa": pytest.approx((2 / 3 - 4 / 9) / (1 - 4 / 9)),
    }


def test_boxes_are_paired_off_once_and_met_by_many():
    # Both of R2's boxes meet R1's one, but only one pair can be made.
    rows = readings(("a", "Edema", "R1", BOX), ("a", "Edema", "R2", BOX), ("a", "Edema", "R2", NEAR))
    (pair,) = measure_agreement(rows, LABELS)["pairs"]
    assert pair["met"] == [1, 1]
    assert pair["f1"] == pytest.approx(2 * 1 / 3)


def test_as_many_pairs_as_possible_are_made():
    # The best overlap first would leave the others alone: 0-10 meets both, 4-14 only 0-10.
    rows = readings(
        ("a", "Edema", "R1", (0, 0, 10, 10)),
        ("a", "Edema", "R1", (-5, 0, 5, 10)),
        ("a", "Edema", "R2", (0, 0, 9, 10)),
        ("a", "Edema", "R2", (3, 0, 13, 10)),
    )
    (pair,) = measure_agreement(rows, LABELS, iou_threshold=0.3)["pairs"]
    assert pair["f1"] == 1


def test_an_overlap_at_the_threshold_does_not_meet():
    rows = readings(("a", "ILD", "R1", (0, 0, 10, 10)), ("a", "ILD", "R2", (0, 0, 10, 25)))
    assert measure_agreement(rows, LABELS, iou_threshold=0.4)["pairs"][0]["f1"] == 0
    assert measure_agreement(rows, LABELS, iou_threshold=0.399)["pairs"][0]["f1"] == 1


def test_classes_outside_the_set_do_not_count_and_their_readers_still_read():
    rows = readings(("a", "Edema", "R1", BOX), ("a", "Other", "R2", BOX))
    agreement = measure_agreement(rows, LABELS)
    assert agreement["per_class"][0]["met"] == 0
    assert agreement["readers"][1] == {"reader": "R2", "images": 1, "boxes": 0, "met": None}


@pytest.mark.parametrize("rows", [readings(("a", "Edema", "R1", BOX), ("b", "Edema", "R2", BOX)), readings()])
def test_without_a_shared_image_there_is_no_agreement(rows):
    assert measure_agreement(rows, LABELS) is None


def test_nobody_drew_anything():
    rows = readings(("a", NO_FINDING, "R1", None), ("a", NO_FINDING, "R2", None))
    agreement = measure_agreement(rows, LABELS)
    assert agreement["pairs"] == [
        {"readers": ["R1", "R2"], "images": 1, "met": [None, None], "f1": None, "per_class": []}
    ]
    assert agreement["per_class"][0] == {"name": "Edema", "boxes": 0, "met": None, "f1": None, "kappa": None}


@settings(max_examples=20)
@given(seed=st.integers(0, 10_000))
def test_order_names_and_scale_change_nothing(seed):
    rows = drawn_readings(seed)
    expected = measure_agreement(rows, LABELS)
    json.dumps(expected, allow_nan=False)
    assert measure_agreement(rows.sample(frac=1, random_state=seed), LABELS) == expected
    scaled = rows.copy()
    scaled[XYXY_COLUMNS] *= [2.0, 0.25, 2.0, 0.25]
    assert measure_agreement(scaled, LABELS) == expected
    renamed = measure_agreement(rows.assign(reader=rows["reader"].map(dict(zip("ABCD", "zxyw", strict=True)))), LABELS)
    assert renamed["per_class"] == expected["per_class"]
    assert sorted(str(r["met"]) for r in renamed["readers"]) == sorted(str(r["met"]) for r in expected["readers"])


def test_the_met_share_is_that_of_a_plain_loop():
    rows = drawn_readings(7, images=60)
    found = rows[rows["class_name"] != NO_FINDING].reset_index(drop=True)
    met = []
    for _, box in found.iterrows():
        same = (found["image_id"] == box["image_id"]) & (found["class_name"] == box["class_name"])
        others = found[same & (found["reader"] != box["reader"])]
        overlaps = iou_matrix([box[XYXY_COLUMNS].to_list()], others[XYXY_COLUMNS].to_numpy())
        met.append(bool((overlaps > 0.4).any()))
    for entry in measure_agreement(rows, LABELS)["per_class"]:
        assert entry["met"] == pytest.approx(np.mean(np.array(met)[found["class_name"] == entry["name"]]))


def test_image_labels_have_a_kappa_each():
    columns = {"image_id": ["a", "a", "b", "b"], "reader": ["R1", "R2"] * 2, "line": range(4)}
    labels = pd.DataFrame(columns | {"Pneumonia": [True, True, False, False], "COPD": [True, False, True, False]})
    pneumonia, copd = label_agreement(labels, ["Pneumonia", "COPD"])
    assert pneumonia == {"name": "Pneumonia", "images": 1, "kappa": pytest.approx(1)}
    assert copd["images"] == 2
    assert copd["kappa"] == pytest.approx(-1)


@pytest.mark.vinbigdata
def test_vinbigdata_readers_meet_as_often_as_published():
    path = os.environ.get("CXR_VINBIGDATA_TABLE")
    if not path:
        pytest.skip("CXR_VINBIGDATA_TABLE does not name the table")
    agreement = measure_agreement(read_table(path), LABELS_14)
    assert agreement["images"] == 15_000
    pairs = {tuple(pair["readers"]): pair for pair in agreement["pairs"]}
    # Nearly all abnormal images were read by these three: another one's box is there in 42.3 to 59.5 % of cases.
    shares = [share for pair in (("R10", "R8"), ("R10", "R9"), ("R8", "R9")) for share in pairs[pair]["met"]]
    assert [round(100 * share) for share in shares] == [51, 57, 55, 44, 59, 42]
    boxes = {entry["reader"]: entry["boxes"] for entry in agreement["readers"]}
    assert (boxes["R8"], boxes["R9"], boxes["R10"]) == (9762, 13729, 10971)
    kappa = {entry["name"]: entry["kappa"] for entry in agreement["per_class"]}
    assert kappa["Cardiomegaly"] == pytest.approx(0.789, abs=0.001)
    assert min(kappa, key=kappa.get) == "Consolidation"


def test_who_did_not_look_for_a_class_does_not_agree_that_it_is_absent():
    seen = [("a", "Edema", "R1", BOX), ("a", "Edema", "R2", NEAR), ("b", "Edema", "R1", BOX)]
    seen += [("b", NO_FINDING, "R2", None), ("c", NO_FINDING, "R1", None), ("c", NO_FINDING, "R2", None)]
    others = [(name, NO_FINDING, reader, None) for name in "xyz" for reader in ("R1", "R2")]
    coverage = pd.DataFrame(0, index=list("xyz"), columns=list(LABELS))
    known = measure_agreement(readings(*seen, *others), LABELS, coverage=coverage)
    alone = measure_agreement(readings(*seen), LABELS)
    assert known["per_class"] == alone["per_class"]
    assert known["pairs"][0]["per_class"] == alone["pairs"][0]["per_class"]
    assert measure_agreement(readings(*seen, *others), LABELS)["per_class"] != alone["per_class"]
