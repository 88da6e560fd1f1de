"""COCO files of a split: a pair, or one in each folder, as Roboflow and CVAT ship them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from source_trees import HEIGHT, WIDTH, read_tree, rows_by_image

from cxr_mmdet.errors import TableError
from cxr_mmdet.structures.coverage import Coverage

if TYPE_CHECKING:
    from pathlib import Path


def coco(*names: str, categories: tuple[str, ...] = ("Mass", "ILD"), **more: Any) -> str:
    """Return a file whose first image holds a box of the last category."""
    images = [{"id": n, "file_name": name, "width": WIDTH, "height": HEIGHT, **more} for n, name in enumerate(names)]
    box = {"id": 1, "image_id": 0, "category_id": len(categories) - 1, "bbox": [10, 20, 30, 40]}
    named = [{"id": n, "name": name, "supercategory": "none"} for n, name in enumerate(categories)]
    return json.dumps({"info": {}, "images": images, "annotations": [box], "categories": named})


BOX = (10, 20, 10 + 30, 20 + 40)


@pytest.mark.parametrize(
    "tree",
    [
        pytest.param({"train.json": coco("a.png", "b.png"), "val.json": coco("c.png")}, id="a pair"),
        pytest.param(
            {
                "annotations/instances_train2017.json": coco("a.png", "b.png"),
                "annotations/instances_val2017.json": coco("c.png"),
                "train2017/a.png": None,
            },
            id="COCO's own names",
        ),
        pytest.param(
            {
                "train/_annotations.coco.json": coco("a.png", "b.png"),
                "valid/_annotations.coco.json": coco("c.png"),
                "train/a.png": None,
                "valid/c.png": None,
            },
            id="Roboflow",
        ),
    ],
)
def test_a_given_split_is_kept(tmp_path: Path, tree: dict) -> None:
    source = read_tree(tmp_path, tree)
    assert (source.format, source.path) == ("coco", tmp_path)
    found = rows_by_image(source)
    assert found == {
        "a": [("ILD", "R1", BOX)],
        "b": [("No finding", "R1", None)],
        "c": [("ILD", "R1", BOX)],
    }
    assert source.split == {"a": "train", "b": "train", "c": "val"}
    assert source.coverage is None


def test_the_first_pair_of_several_keeps_its_split(tmp_path: Path) -> None:
    """Of a prepared folder with two label sets or folds, the validation images were taken for unread."""
    pair = {"annotations/{}_14.json": ("a.png", "b.png"), "annotations/{}_5.json": ("a.png",)}
    pair["annotations/fold1/{}_14.json"] = ("b.png",)
    tree = {name.format("train"): coco(*images) for name, images in pair.items()}
    tree |= {name.format("val"): coco("c.png") for name in pair}
    source = read_tree(tmp_path, tree)
    assert (source.format, source.path) == ("coco", tmp_path)
    assert source.split == {"a": "train", "b": "train", "c": "val"}
    (note,) = [note for note in source.notes if "train_14.json" in note]
    assert "annotations/train_14.json and annotations/val_14.json are read, annotations/train_5.json" in note


def test_one_export_of_cvat(tmp_path: Path) -> None:
    source = read_tree(
        tmp_path, {"annotations/instances_default.json": coco("sub/a.png"), "images/default/sub/a.png": None}
    )
    assert (source.format, source.split) == ("coco", None)
    assert rows_by_image(source) == {"a": [("ILD", "R1", BOX)]}


def test_roboflows_category_above_the_others_is_no_class(tmp_path: Path) -> None:
    text = coco("a.png", categories=("findings", "Mass")).replace(
        '"Mass", "supercategory": "none"', '"Mass", "supercategory": "findings"'
    )
    assert read_tree(tmp_path, {"train/_annotations.coco.json": text}).classes == ("Mass",)


def test_a_category_of_one_file_alone_is_unknown_in_the_other(tmp_path: Path) -> None:
    source = read_tree(
        tmp_path, {"train.json": coco("a.png"), "val.json": coco("c.png", categories=("Mass", "ILD", "Edema"))}
    )
    assert source.coverage is not None
    assert source.coverage["Edema"].to_dict() == {"a": Coverage.UNKNOWN, "c": Coverage.EXHAUSTIVE}
    assert source.rows["class_id"].tolist() == [1, 2]


def test_an_image_with_no_reader_is_unread(tmp_path: Path) -> None:
    text = coco("a.png", "b.png", readers=["R1"]).replace(
        '"file_name": "b.png", "width": 200, "height": 100, "readers": ["R1"]', '"file_name": "b.png", "readers": []'
    )
    source = read_tree(tmp_path, {"x.json": text})
    assert (list(rows_by_image(source)), source.unread) == (["a"], ("b",))


def test_an_image_on_both_sides_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TableError, match=r"val\.json: image a is in train\.json of the other side too"):
        read_tree(tmp_path, {"train.json": coco("a.png", "b.png"), "val.json": coco("a.png")})


def test_a_side_that_says_nothing_of_normal_chests_holds_normal_ones(tmp_path: Path) -> None:
    unsure = coco("a.png", "b.png").replace('"file_name": "b.png"', '"file_name": "b.png", "normal": false')
    source = read_tree(tmp_path, {"train.json": unsure, "val.json": coco("c.png", "d.png")})
    assert source.normal == frozenset({"d"})
