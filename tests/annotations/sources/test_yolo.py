"""YOLO trees: fractions become pixels, an empty label file is normal, a missing one unread."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from source_trees import HEIGHT, WIDTH, read_tree, rows_by_image, write_tree

from cxr_mmdet.annotations.sources import read_source
from cxr_mmdet.errors import TableError

if TYPE_CHECKING:
    from pathlib import Path

TREE = {
    "data.yaml": "path: .\ntrain: images/train\nval: images/val\nnames: [Nodule, Mass]\n",
    "images/train/a.png": None,
    "images/train/b.png": None,
    "images/train/c.png": None,
    "images/val/d.png": None,
    # 40 and 30 pixels wide and high, then a triangle.
    "labels/train/a.txt": "0 0.5 0.5 0.2 0.3\n1 0.1 0.2 0.3 0.2 0.2 0.6\n",
    "labels/train/b.txt": "",
    "labels/val/d.txt": "1 0.25 0.25 0.5 0.5\n",
}


def test_a_tree_with_its_split(tmp_path: Path) -> None:
    source = read_tree(tmp_path, TREE)
    assert source.format == "yolo"
    assert rows_by_image(source) == {
        "a": [
            ("Nodule", "R1", ((0.5 - 0.1) * WIDTH, (0.5 - 0.15) * HEIGHT, (0.5 + 0.1) * WIDTH, (0.5 + 0.15) * HEIGHT)),
            ("Mass", "R1", (0.1 * WIDTH, 0.2 * HEIGHT, 0.3 * WIDTH, 0.6 * HEIGHT)),
        ],
        "b": [("No finding", "R1", None)],
        "d": [("Mass", "R1", (0, 0, WIDTH / 2, HEIGHT / 2))],
    }
    assert source.split == {"a": "train", "b": "train", "c": "train", "d": "val"}
    assert (source.unread, source.unread_is_known) == (("c",), True)
    assert source.images is not None
    assert source.images["d"] == tmp_path / "images/val/d.png"
    assert source.rows["line"].tolist() == [
        "labels/train/a.txt, line 1",
        "labels/train/a.txt, line 2",
        "labels/train/b.txt",
        "labels/val/d.txt, line 1",
    ]


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param(
            {"data.yaml": TREE["data.yaml"].replace("[Nodule, Mass]", "{0: Nodule, 1: Mass}")}, id="a dict of names"
        ),
        pytest.param({"data.yaml": TREE["data.yaml"].replace(": images", ": ../images")}, id="Roboflow's wrong path"),
        pytest.param({"data.yaml": TREE["data.yaml"].replace("path: .", "path: /home/me/set")}, id="another machine"),
        pytest.param({"data.yaml": TREE["data.yaml"].replace("images/", "images\\")}, id="Windows' separators"),
        pytest.param(
            {"data.yaml": b"\xef\xbb\xbf" + TREE["data.yaml"].replace("\n", "\r\n").encode()}, id="BOM and CRLF"
        ),
        pytest.param({"labels/val/d.txt": b"\xef\xbb\xbf1 0.25 0.25 0.5 0.5\r\n"}, id="labels with BOM and CRLF"),
        pytest.param({"labels/val/d.txt": "1 0.0 0.0 0.5 0.0 0.5 0.5 0.0 0.5\n"}, id="an oriented box"),
        pytest.param({"labels/train/classes.txt": "Nodule\nMass\n"}, id="labelImg's list among the labels"),
        pytest.param({"data.yaml": TREE["data.yaml"] + "test: images/test\n"}, id="a test side that is not there"),
        pytest.param(
            {
                "data.yaml": "train: train.txt\nval: val.txt\nnames: [Nodule, Mass]\n",
                "train.txt": "./images/train/a.png\nimages/train/b.png\nC:\\set\\images\\train\\c.png\n",
                "val.txt": "data/images/val/d.png\n",
            },
            id="lists of images",
        ),
    ],
)
def test_what_tools_write_otherwise(tmp_path: Path, changes: dict) -> None:
    expected = read_tree(tmp_path / "a", TREE)
    source = read_tree(tmp_path / "b", TREE | changes)
    assert rows_by_image(source) == rows_by_image(expected)
    assert source.split == expected.split


def test_lists_of_classes_without_yaml(tmp_path: Path) -> None:
    source = read_tree(
        tmp_path, {"classes.txt": "Nodule\nMass\n", "images/a.png": None, "labels/a.txt": "1 .5 .5 1 1\n"}
    )
    assert rows_by_image(source) == {"a": [("Mass", "R1", (0, 0, WIDTH, HEIGHT))]}
    assert source.split is None


def test_a_box_at_the_border_is_not_carried_beyond_it_by_rounding(tmp_path: Path) -> None:
    source = read_tree(tmp_path, TREE | {"labels/val/d.txt": "1 0.166667 0.833333 0.333335 0.333335\n"})
    ((_, _, box),) = rows_by_image(source)["d"]
    assert box == pytest.approx((0, 200 / 3, 200 / 3, 100), abs=1e-3)
    assert box[0] == 0
    assert box[3] == HEIGHT


def test_classes_that_nobody_drew_were_looked_for(tmp_path: Path) -> None:
    yaml = TREE["data.yaml"].replace("Mass", "Mass, Edema, Normal")
    assert read_tree(tmp_path, TREE | {"data.yaml": yaml}).classes == ("Nodule", "Mass", "Edema")


def test_a_class_that_means_no_finding_needs_a_box_in_yolo(tmp_path: Path) -> None:
    yaml = TREE["data.yaml"].replace("Mass", "Normal")
    source = read_tree(tmp_path, TREE | {"data.yaml": yaml, "labels/train/a.txt": "0 .5 .5 .2 .2"})
    assert rows_by_image(source)["d"] == [("No finding", "R1", None)]


def test_boxes_of_a_tree_belong_to_the_radiographs_that_are_named(tmp_path: Path) -> None:
    tree = write_tree(tmp_path / "tree", TREE)
    originals = write_tree(tmp_path / "originals", {"a.png": None, "d.png": None})
    images = read_source(tree, images=originals).images
    assert images is not None
    assert [images[name] for name in "abd"] == [originals / "a.png", tree / "images/train/b.png", originals / "d.png"]


def test_repeated_lines_count_once(tmp_path: Path) -> None:
    source = read_tree(tmp_path, TREE | {"labels/val/d.txt": "0 .5 .5 .1 .1\n" * 2})
    assert len(rows_by_image(source)["d"]) == 1
    assert "1 repeated row left out, the first is label file labels/val/d.txt, line 2." in source.notes


def test_labels_without_an_image_and_one_folder_for_both_sides_are_noted(tmp_path: Path) -> None:
    yaml = TREE["data.yaml"].replace("val: images/val", "val: images/train")
    source = read_tree(tmp_path, TREE | {"data.yaml": yaml, "labels/train/x.txt": "0 .5 .5 .2 .2\n"})
    assert source.split is None
    assert "1 label file without an image left out, such as labels/train/x.txt." in source.notes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"labels/val/d.txt": "2 .5 .5 .1 .1"},
            "d.txt, line 1: class 2 is not among the 2 names of the tree; expected 0 to 1.",
        ),
        ({"labels/val/d.txt": "0 100 50 40 30"}, "d.txt, line 1: 100 is no fraction of the image; expected 0…1"),
        ({"labels/val/d.txt": "0 50.0 50.0 20 20"}, "is no fraction of the image"),
        ({"labels/val/d.txt": "0 .5 .5 .1 .1 .9"}, "d.txt, line 1: holds a box with a score, as predictions have"),
        ({"labels/val/d.txt": "0 .5 .5 .1"}, "d.txt, line 1: holds 4 numbers; expected class x_center y_center"),
        ({"labels/val/d.txt": "Mass .5 .5 .1 .1"}, "d.txt, line 1: the line holds 'Mass', expected numbers."),
        ({"labels/val/d.txt": "0 .5 .5 nan .1"}, "d.txt, line 1: the line holds 'nan', expected numbers."),
        (
            {"labels/val/d.txt": "0 .5 .5 0 .1"},
            "label file labels/val/d.txt, line 1: x_max 100 is not beyond x_min 100",
        ),
        ({"labels/val/d.txt": b"0 .5 .5 .1 .1 \xff"}, "d.txt: is not UTF-8 text"),
        ({"data.yaml": "train: images/train\nval: images/val\n"}, "data.yaml: names no classes; add `names:`"),
        ({"data.yaml": TREE["data.yaml"] + "nc: 3\n"}, "data.yaml: nc is 3, but names holds 2 classes"),
        ({"data.yaml": TREE["data.yaml"].replace("Mass", "Nodule")}, "names holds 'Nodule' more than once"),
        (
            {"data.yaml": TREE["data.yaml"].replace("[Nodule, Mass]", "{1: A, 2: B}")},
            "names has the keys [1, 2]; expected 0 to 1",
        ),
        (
            {"data.yaml": TREE["data.yaml"].replace("images/val", "D:\\images\\x")},
            "val is 'D:\\\\images\\\\x', which does not exist",
        ),
        ({"data.yaml": TREE["data.yaml"] + "names: [\n"}, "data.yaml: is not YAML"),
        ({"data.yaml": b"names: [\xe4]\ntrain: a\nval: b\n"}, "data.yaml: is not UTF-8 text"),
        ({"images/val/a.png": None}, "are both image 'a'; expected each name once over all folders"),
    ],
)
def test_traps(tmp_path: Path, changes: dict, message: str) -> None:
    with pytest.raises(TableError, match=re.escape(message)) as caught:
        read_tree(tmp_path, TREE | changes, format_name="yolo")
    assert "\n" not in str(caught.value)


def test_an_image_on_both_sides_is_refused(tmp_path: Path) -> None:
    yaml = "train: [images/train, images/val/d.txt]\nval: images/val\nnames: [A, B]\n"
    changes = {"data.yaml": yaml, "images/val/d.txt": "images/val/d.png\n", "images/val/e.png": None}
    with pytest.raises(TableError, match=r"1 image both in train and in val or test, such as images/val/d\.png"):
        read_tree(tmp_path, TREE | changes)
