"""CVAT for images 1.1: the assignee is the reader, shapes become their extent."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from source_trees import HEIGHT, WIDTH, read_tree, rows_by_image

from cxr_mmdet.errors import TableError

if TYPE_CHECKING:
    from pathlib import Path

LABELS = "<labels><label><name>Nodule</name></label><label><name>Mass</name></label></labels>"


def xml(images: str, *, meta: str = "", labels: str = LABELS) -> str:
    return (
        '<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n  <version>1.1</version>\n'
        f"  <meta><job><id>3</id>{meta}{labels}</job></meta>\n{images}</annotations>\n"
    )


def image(name: str, shapes: str = "", **more: str) -> str:
    attributes = "".join(f' {key}="{value}"' for key, value in more.items())
    return f'  <image id="0" name="{name}" width="{WIDTH}" height="{HEIGHT}"{attributes}>{shapes}</image>\n'


def box(label: str = "Mass", inner: str = "", **more: str) -> str:
    attributes = "".join(f' {key}="{value}"' for key, value in more.items())
    corners = 'xtl="10.50" ytl="20" xbr="40" ybr="60.25"'
    return f'<box label="{label}" occluded="0" {corners} z_order="0"{attributes}>{inner}</box>'


BOX = (10.5, 20, 40, 60.25)
ANN = "<assignee><username>ann</username><email>a@x.org</email></assignee>"


def test_an_export_root_with_images_beside(tmp_path: Path) -> None:
    images = image("a.png", box() + box("Nodule", xtl2="0")) + image("sub/b.png", subset="Validation")
    files = {
        "annotations.xml": xml(images, meta=ANN),
        "images/a.png": None,
        "images/sub/b.png": None,
        "images/c.png": None,
    }
    source = read_tree(tmp_path, files)
    assert source.format == "cvat"
    assert rows_by_image(source) == {
        "a": [("Mass", "ann", BOX), ("Nodule", "ann", BOX)],
        "b": [("No finding", "ann", None)],
    }
    # Class ids follow the labels of the job, not the alphabet.
    assert source.rows["class_id"].tolist() == [1, 0, 2]
    assert source.images == {
        name: tmp_path / f"images/{path}.png" for name, path in (("a", "a"), ("b", "sub/b"), ("c", "c"))
    }
    assert source.split == {"b": "val"}
    assert source.unread_is_known


def test_one_file_per_job_is_one_reader_per_job(tmp_path: Path) -> None:
    bob = ANN.replace("ann", "bob")
    files = {"1.xml": xml(image("a.png", box()), meta=ANN), "2/annotations.xml": xml(image("a.png"), meta=bob)}
    source = read_tree(tmp_path, files)
    assert rows_by_image(source) == {"a": [("Mass", "ann", BOX), ("No finding", "bob", None)]}
    assert source.rows["line"].tolist() == ["a.png of 1.xml", "a.png of annotations.xml"]
    alike = {"1.xml": xml(image("a.png", box())), "2.xml": xml(image("a.png"))}
    with pytest.raises(
        TableError, match=r"2\.xml: image a\.png by reader R1 stands in 1\.xml too; expected one reading"
    ):
        read_tree(tmp_path / "x", alike)


def test_a_project_has_an_assignee_per_task(tmp_path: Path) -> None:
    tasks = f"<tasks><task><id>7</id>{ANN}</task><task><id>8</id><assignee></assignee></task></tasks>"
    text = xml(image("a.png", box(), task_id="7") + image("b.png", box(), task_id="8"), meta=tasks)
    source = read_tree(tmp_path, {"annotations.xml": text.replace("job>", "project>")})
    assert rows_by_image(source) == {"a": [("Mass", "ann", BOX)], "b": [("Mass", "R1", BOX)]}


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        # A quarter turn about the centre exchanges the sides.
        (
            '<box label="Mass" xtl="10" ytl="20" xbr="50" ybr="40" rotation="90"/>',
            (30 - 20 / 2, 30 - 40 / 2, 30 + 20 / 2, 30 + 40 / 2),
        ),
        ('<polygon label="Mass" points="10.50,30;30,20;40,60.25"/>', BOX),
        ('<polyline label="Mass" points="10.50,60.25;40,20"/>', BOX),
        ('<ellipse label="Mass" cx="50" cy="40" rx="20" ry="10"/>', (30, 30, 70, 50)),
        ('<ellipse label="Mass" cx="50" cy="40" rx="20" ry="10" rotation="90"/>', (40, 20, 60, 60)),
        # Two rows of four pixels: the first is empty, of the second the middle two are set.
        ('<mask label="Mass" rle="5, 2, 1" left="30" top="20" width="4" height="2"/>', (31, 21, 33, 22)),
    ],
)
def test_shapes_become_their_extent(tmp_path: Path, shape: str, expected: tuple) -> None:
    ((name, _, found),) = rows_by_image(read_tree(tmp_path, {"a.xml": xml(image("a.png", shape))}))["a"]
    assert name == "Mass"
    assert found == pytest.approx(expected)


def test_hidden_and_foreign_shapes(tmp_path: Path) -> None:
    shapes = (
        box("Nodule", outside="1")
        + box().replace('occluded="0"', 'occluded="1"')
        + '<points label="Mass" points="1,2"/><tag label="Rotated"/>'
    )
    source = read_tree(tmp_path, {"a.xml": xml(image("a.png", shapes) + image("b.png", '<tag label="Normal"/>'))})
    assert rows_by_image(source) == {"a": [("Mass", "R1", BOX)], "b": [("No finding", "R1", None)]}
    assert "1 mark of a.xml left out: points." in source.notes
    assert "1 mark of a.xml left out: tag Rotated." in source.notes


def test_regions_to_ignore(tmp_path: Path) -> None:
    attribute = '<attribute name="is_crowd">true</attribute>'
    labels = LABELS.replace("</labels>", "<label><name>Ignore</name></label></labels>")
    shapes = {"a": box(inner=attribute), "b": box("Ignore"), "c": box(inner=attribute.replace("true", "false"))}
    text = xml("".join(image(f"{name}.png", shape) for name, shape in shapes.items()), labels=labels)
    rows = read_tree(tmp_path, {"a.xml": text}).rows
    # A region without a class is ignored for all.
    assert rows[["image_id", "class_name", "iscrowd"]].to_numpy().tolist() == [
        ["a", "Mass", True],
        ["b", "Nodule", True],
        ["b", "Mass", True],
        ["c", "Mass", False],
    ]


@pytest.mark.parametrize("change", [lambda text: "\ufeff" + text, lambda text: text.replace("\n", "\r\n")])
def test_byte_order_mark_and_line_ends(tmp_path: Path, change) -> None:
    assert rows_by_image(read_tree(tmp_path, {"a.xml": change(xml(image("sub\\a.png", box())))}))["a"] == [
        ("Mass", "R1", BOX)
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (xml(image("a.png", box()).replace("10.50", "ten")), "image a.png: a box holds 'ten', expected numbers."),
        (xml(image("a.png", box()).replace(' xtl="10.50"', "")), "image a.png: a box holds None, expected numbers."),
        (xml(image("a.png", box(label=""))), "image a.png: class_name is empty"),
        (xml(image("a.png", box()).replace("10.50", "50")), "image a.png: x_max 40 is not beyond x_min 50"),
        (xml(image("a/x.png") + image("b/x.png")), "image a/x.png and image b/x.png are both image 'x'"),
        (xml(image("", box())), "a.xml: an image has no name"),
        (xml("<track/>" + image("a.png")), "a.xml: is CVAT for video, which radiographs are not"),
        (xml(image("a.png"))[:-20], "a.xml: is no whole XML file"),
        (
            xml(image("a.png")).replace("<annotations>", "<!DOCTYPE x [<!ENTITY y 'z'>]><annotations>"),
            "a.xml: declares a document",
        ),
        (
            xml(image("a.png", '<mask label="A" rle="1, 2" left="0" top="0" width="2" height="2"/>')),
            "a mask has 3 pixels, expected 2 x 2",
        ),
        (
            xml(image("a.png", '<box label="A" xtl=".1" ytl=".2" xbr=".3" ybr=".4"/>')),
            "image a.png: the box 0.1, 0.2, 0.3, 0.4 looks normalised",
        ),
        (xml(""), "a.xml: nobody has read an image of it yet"),
        (xml(image("\xe4.png")).encode("latin-1"), "a.xml: is no whole XML file"),
    ],
)
def test_traps(tmp_path: Path, text: str | bytes, message: str) -> None:
    with pytest.raises(TableError, match=re.escape(message)) as caught:
        read_tree(tmp_path, {"a.xml": text}, format_name="cvat")
    assert "\n" not in str(caught.value)
