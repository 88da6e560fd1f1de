"""Label sets over readers' rows: what merges, what is kept, what is unknown."""

import pandas as pd
import pytest

from cxr_mmdet.annotations.consensus import fuse_readers
from cxr_mmdet.annotations.table import merge_classes, unknown_classes
from cxr_mmdet.errors import UsageError
from cxr_mmdet.structures.boxes import XYXY_COLUMNS

NAMES = ("Lung Opacity", "Infiltration", "ILD")
ROWS = pd.DataFrame(
    [("a", name, number, f"R{number}", 0, 0, 10, 10) for number, name in enumerate(NAMES)],
    columns=["image_id", "class_name", "class_id", "reader", *XYXY_COLUMNS],
)


def test_merged_classes_fuse_and_others_keep_their_name():
    merged = merge_classes(ROWS, {"Opacity": ("Lung Opacity", "Infiltration")})
    assert merged["class_name"].tolist() == ["Opacity", "Opacity", "ILD"]
    fused = fuse_readers(merged)
    assert fused[["class_name", "votes"]].to_numpy().tolist() == [["ILD", 1], ["Opacity", 2]]


def test_a_label_may_keep_the_name_of_a_class_it_holds():
    merged = merge_classes(ROWS, {"Lung Opacity": ("Infiltration", "Lung Opacity")})
    assert merged["class_name"].tolist() == ["Lung Opacity", "Lung Opacity", "ILD"]


@pytest.mark.parametrize(
    "label_map", [{"ILD": ("Infiltration",)}, {"ILD": ("Infiltration",), "Infiltration": ("ILD",)}]
)
def test_a_label_named_like_another_class_is_refused(label_map):
    with pytest.raises(UsageError, match="the table has a class of this name that the label does not hold"):
        merge_classes(ROWS, label_map)


def test_plain_label_sets_change_nothing():
    assert merge_classes(ROWS, {name: (name,) for name in NAMES}) is ROWS


def test_unknown_classes_are_named_with_what_they_may_mean():
    label_map = {"ILD": ("ILD",), "X": ("Infiltrations", "Tumor")}
    assert unknown_classes(ROWS, label_map) == {"Infiltrations": "Infiltration", "Tumor": None}
