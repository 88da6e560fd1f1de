"""CSV of file names, classes and corners."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np
import pytest
from conftest import write_radiograph
from source_trees import HEIGHT, WIDTH, read_tree, rows_by_image

from cxr_mmdet.errors import TableError

if TYPE_CHECKING:
    from pathlib import Path

HEADER = "filename,width,height,class,xmin,ymin,xmax,ymax\n"
ROWS = (
    f"a.png,{WIDTH},{HEIGHT},Mass,10,20,40,60.5\na.png,{WIDTH},{HEIGHT},ILD,1,2,3,4\nsub/b.png,{WIDTH},{HEIGHT},,,,,\n"
)


@pytest.mark.parametrize("change", [str, lambda text: "\ufeff" + text.replace("\n", "\r\n")])
def test_boxes_and_an_image_without(tmp_path: Path, change) -> None:
    source = read_tree(
        tmp_path, {"labels.csv": change(HEADER + ROWS), "pics/a.png": None, "pics/sub/b.png": None, "pics/c.png": None}
    )
    assert source.format == "csv"
    assert rows_by_image(source) == {
        "a": [("Mass", "R1", (10, 20, 40, 60.5)), ("ILD", "R1", (1, 2, 3, 4))],
        "b": [("No finding", "R1", None)],
    }
    assert source.rows["class_id"].tolist() == [1, 0, 2]
    assert source.rows["line"].tolist() == [2, 3, 4]
    assert source.rows["table_width"].tolist() == [WIDTH] * 3
    assert source.images == {
        name: tmp_path / f"pics/{path}.png" for name, path in (("a", "a"), ("b", "sub/b"), ("c", "c"))
    }
    assert source.unread_is_known


def test_vott_and_windows_paths(tmp_path: Path) -> None:
    text = '"image","xmin","ymin","xmax","ymax","label"\n"C:\\set\\a.jpg",10,20,40,60,"Mass"\n'
    assert rows_by_image(read_tree(tmp_path, {"set-export.csv": text})) == {"a": [("Mass", "R1", (10, 20, 40, 60))]}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("c.png,200,100,Mass,0.1,0.2,0.3,0.4\n", "line 2: the box 0.1, 0.2, 0.3, 0.4 looks normalised to 0…1"),
        ("c.png,200,100,Mass,10,20,,60\n", "line 2: 'Mass' lacks x_max; expected four coordinates."),
        ("c.png,200,100,,10,20,40,60\n", "line 2: class_name is empty"),
        ("c.png,200,100,Mass,10,20,ten,60\n", "line 2: x_max is 'ten', expected a number or nothing."),
        (",200,100,Mass,10,20,40,60\n", "line 2: filename is empty"),
        (
            "x/c.png,200,100,Mass,1,2,3,4\ny/c.png,200,100,Mass,1,2,3,4\n",
            "file x/c.png and file y/c.png are both image 'c'",
        ),
        ("c.png,200,100,Mass,1,2,3,4\nc.png,200,100,,,,,\n", "line 3: reader R1 says 'No finding' and draws a box"),
        (b"\xe4.png,200,100,Mass,1,2,3,4\n", "is not UTF-8 text"),
    ],
)
def test_traps(tmp_path: Path, row: str | bytes, message: str) -> None:
    content = HEADER.encode() + (row if isinstance(row, bytes) else row.encode())
    with pytest.raises(TableError, match=re.escape(message)):
        read_tree(tmp_path, {"labels.csv": content})


def test_an_image_named_by_its_uid_is_not_unread_under_its_file_name(tmp_path: Path) -> None:
    path = write_radiograph(tmp_path / "scan.dcm", np.zeros((HEIGHT, WIDTH), np.uint16), SOPInstanceUID="1.2.3")
    source = read_tree(tmp_path, {"labels.csv": f"{HEADER}1.2.3,{WIDTH},{HEIGHT},Mass,10,20,40,60\n"})
    assert source.images == {"1.2.3": path}
