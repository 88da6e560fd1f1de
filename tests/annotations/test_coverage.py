"""Coverage of classes under a label set, its file, and counts of present, absent and unknown."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest

from cxr_mmdet.annotations.coverage import ImageCounts, ImageFacts, count_images, coverage_frame
from cxr_mmdet.annotations.table import merge_classes
from cxr_mmdet.errors import TableError
from cxr_mmdet.structures.coverage import Coverage

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

NO, SOME, ALL = Coverage


def frame(rows: dict[str, Sequence[int]], columns: str = "AB") -> pd.DataFrame:
    return pd.DataFrame.from_dict(rows, orient="index", columns=list(columns), dtype=np.int8).rename_axis("image_id")


def boxes(*found: tuple[str, str]) -> pd.DataFrame:
    """Return rows of images and classes; an empty class is "No finding"."""
    rows = pd.DataFrame([(image, name or "No finding") for image, name in found], columns=["image_id", "class_name"])
    return rows.assign(class_id=0)


@pytest.mark.parametrize(
    ("levels", "found", "merged"),
    [
        ((ALL, ALL), "", ALL),
        ((ALL, ALL), "A", ALL),
        ((ALL, NO), "A", SOME),
        ((ALL, NO), "", NO),
        ((SOME, ALL), "A", SOME),
        ((SOME, ALL), "B", SOME),
        ((SOME, ALL), "", NO),
        ((NO, NO), "B", SOME),
        ((NO, NO), "", NO),
    ],
)
def test_a_label_knows_what_all_its_classes_know(levels: Sequence[int], found: str, merged: int) -> None:
    facts = ImageFacts(frame({"x": levels}))
    label_map = {"Both": ("A", "B")}
    labels = facts.of_labels(label_map, merge_classes(boxes(("x", found)), label_map))
    assert labels is not None
    assert labels.loc["x", "Both"] == merged


def test_a_class_without_a_column_was_not_looked_for_and_regions_are_no_boxes() -> None:
    rows = boxes(("x", "A"), ("y", "A")).assign(iscrowd=[False, True])
    labels = ImageFacts(frame({"x": (ALL, ALL), "y": (SOME, ALL)})).of_labels({"A": ("A",), "C": ("C",)}, rows)
    assert labels is not None
    assert labels.to_numpy().tolist() == [[ALL, NO], [NO, NO]]
    assert ImageFacts().of_labels({"A": ("A",)}, rows) is None


def test_nothing_is_unknown_of_a_normal_chest() -> None:
    facts = ImageFacts(frame({"x": (ALL, NO), "y": (ALL, NO)}), normal={"x": True, "y": False})
    labels = facts.of_labels({"A": ("A",), "B": ("B",), "C": ("C",)}, boxes(("x", ""), ("y", "")))
    assert labels is not None
    assert labels.to_numpy().tolist() == [[ALL, ALL, ALL], [ALL, NO, NO]]


def test_a_label_that_stands_for_no_class_of_the_source_was_not_looked_for() -> None:
    labels = ImageFacts().of_labels({"A": ("A",), "B": ()}, boxes(("x", "A"), ("y", "")))
    assert labels is not None
    assert labels.to_numpy().tolist() == [[ALL, NO], [ALL, NO]]


def test_of_several_sets_each_answers_for_its_own_classes() -> None:
    facts = ImageFacts(
        frame({"x": (ALL, NO, NO), "y": (NO, ALL, ALL)}, "ABC").set_axis(["s:A", "t:A", "t:B"], axis=1),
        {"x": "s", "y": "t"},
    )
    label_map = {"A": ("s:A", "t:A"), "AB": ("s:A", "t:A", "t:B"), "B": ("t:B",)}
    labels = facts.of_labels(label_map, boxes(("x", ""), ("y", "")))
    assert labels is not None
    assert labels.to_numpy().tolist() == [[ALL, ALL, NO], [ALL, ALL, ALL]]


def test_the_file_holds_what_was_stated(tmp_path: Path) -> None:
    path = tmp_path / "coverage.csv"
    for facts in (
        ImageFacts(frame({"a,b": (ALL, NO), "=c": (SOME, ALL)}), {"a,b": "s", "d": "t"}, {"=c": "val"}),
        ImageFacts(None, {}, {"x": "train", "y": "val"}, {"x": True, "z": False}),
    ):
        facts.write(path)
        again = ImageFacts.read(path)
        assert (again.set_of, again.split_of, again.normal) == (facts.set_of, facts.split_of, facts.normal)
        if facts.coverage is None:
            assert again.coverage is None
        else:
            pd.testing.assert_frame_equal(again.coverage, facts.coverage.sort_index())
    ImageFacts().write(path)
    assert not path.exists()
    assert ImageFacts.read(path) == ImageFacts()


@pytest.mark.parametrize("lines", ["a,,,,3,0", "a,,,,,2", "a,,,,x,2", "a,,,,1,1\na,,,,1,1"])
def test_a_damaged_file_is_refused(tmp_path: Path, lines: str) -> None:
    (tmp_path / "coverage.csv").write_text(f"image_id,set,split,normal,A,B\n{lines}\n")
    with pytest.raises(TableError, match=re.escape("coverage.csv: is damaged; expected each image once, with 0, 1, 2")):
        ImageFacts.read(tmp_path / "coverage.csv")


def test_absent_and_unknown_are_counted_apart() -> None:
    rows = boxes(("x", "A"), ("x", "A"), ("y", ""), ("z", "B"), ("w", ""))
    counts = count_images(rows, ["A", "B", "C"], frame({"x": (ALL, NO), "y": (ALL, SOME), "z": (NO, ALL)}))
    # w has no row in the frame, so everything was looked for there.
    assert counts == {"A": ImageCounts(1, 2, 1), "B": ImageCounts(1, 1, 2), "C": ImageCounts(0, 1, 3)}
    assert count_images(rows, ["A"], None) == {"A": ImageCounts(1, 3, 0)}
    assert coverage_frame(["x"], ["A"]).loc["x", "A"] == ALL
