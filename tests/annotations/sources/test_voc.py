"""Pascal VOC: corners are pixels counted from 1 that belong to the object."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from source_trees import HEIGHT, WIDTH, read_tree, rows_by_image

from cxr_mmdet.errors import TableError

if TYPE_CHECKING:
    from pathlib import Path


def thing(corners: tuple = (11, 21, 40, 60), name: str = "Mass", difficult: int = 0) -> str:
    sides = "".join(
        f"<{side}>{value}</{side}>" for side, value in zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True)
    )
    return f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox>{sides}</bndbox></object>"


def xml(*things: str, filename: str = "a.png") -> str:
    size = f"<size><width>{WIDTH}</width><height>{HEIGHT}</height><depth>1</depth></size>"
    return f"<annotation>\n<filename>{filename}</filename>{size}{''.join(things)}\n</annotation>\n"


DEVKIT = {
    "Annotations/a.xml": xml(thing(), thing((1, 1, WIDTH, HEIGHT), "Nodule")),
    "Annotations/b.xml": xml(filename="b.png"),
    "JPEGImages/a.png": None,
    "JPEGImages/b.png": None,
    "JPEGImages/c.png": None,
    "ImageSets/Main/train.txt": "a\n",
    "ImageSets/Main/val.txt": "b 1\n",
}
FROM_ONE = (11 - 1, 21 - 1, 40, 60)


def test_a_devkit(tmp_path: Path) -> None:
    source = read_tree(tmp_path, DEVKIT)
    assert source.format == "voc"
    assert rows_by_image(source) == {
        "a": [("Mass", "R1", FROM_ONE), ("Nodule", "R1", (0, 0, WIDTH, HEIGHT))],
        "b": [("No finding", "R1", None)],
    }
    assert source.split == {"a": "train", "b": "val"}
    assert source.images == {name: tmp_path / f"JPEGImages/{name}.png" for name in "abc"}
    assert source.rows[["table_height", "table_width"]].to_numpy().tolist() == [[HEIGHT, WIDTH]] * 3
    assert source.unread_is_known


@pytest.mark.parametrize("corners", [(0, 21, 40, 60), (11.5, 21, 40, 60)])
def test_corners_that_cannot_be_counted_from_one(tmp_path: Path, corners: tuple) -> None:
    source = read_tree(tmp_path, {"a.xml": xml(thing(corners)), "b.xml": xml(thing()), "a.png": None})
    assert rows_by_image(source) == {"a": [("Mass", "R1", corners)], "b": [("Mass", "R1", (11, 21, 40, 60))]}
    assert "are 0 or between pixels, so they are taken as counted from 0." in source.notes[0]


def test_difficult_objects_are_regions_to_ignore(tmp_path: Path) -> None:
    source = read_tree(tmp_path, {"a.xml": xml(thing(difficult=1), thing(name="Nodule"))})
    assert source.rows[["class_name", "iscrowd"]].to_numpy().tolist() == [["Mass", True], ["Nodule", False]]


def test_a_folder_per_side(tmp_path: Path) -> None:
    source = read_tree(
        tmp_path, {"train/a.xml": xml(thing()), "train/a.png": None, "valid/b.xml": xml(), "valid/b.png": None}
    )
    assert source.split == {"a": "train", "b": "val"}
    assert source.images == {"a": tmp_path / "train/a.png", "b": tmp_path / "valid/b.png"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"Annotations/a.xml": xml(thing((11, 21, "x", 60)))}, "a.xml: the box of 'Mass' holds 'x', expected numbers."),
        (
            {"Annotations/a.xml": xml(thing()).replace("<xmin>11</xmin>", "")},
            "a.xml: 'Mass' lacks a side of its bndbox",
        ),
        (
            {"Annotations/a.xml": xml(thing((40, 21, 11, 60)))},
            "file Annotations/a.xml: x_max 11 is not beyond x_min 39",
        ),
        ({"Annotations/a.xml": xml(thing(name=""))}, "file Annotations/a.xml: class_name is empty"),
        ({"more/a.xml": xml()}, "file Annotations/a.xml and file more/a.xml are both image 'a'"),
        ({"Annotations/a.xml": xml(thing())[:60]}, "a.xml: is no whole XML file"),
        ({"ImageSets/Main/val.txt": "a\n"}, "image a is in train.txt and in val.txt; remove one."),
    ],
)
def test_traps(tmp_path: Path, changes: dict, message: str) -> None:
    with pytest.raises(TableError, match=re.escape(message)):
        read_tree(tmp_path, DEVKIT | changes)
