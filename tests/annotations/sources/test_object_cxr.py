"""Object-CXR: rectangles, ellipses and polygons."""

import pytest

from cxr_mmdet.annotations.sources import read_source
from cxr_mmdet.errors import TableError

HEADER = "image_name,annotation\n"
ROWS = "a.jpg,0 10 20 30 50;1 5 6 9 8;2 3 4 7 1 5 9 1 6\nb.jpg,\n"


def test_shapes_become_the_boxes_around_them(write, boxes_of):
    source = read_source(write({"train.csv": HEADER + ROWS, "dev.csv": HEADER + "c.jpg,\n"}))
    assert (source.format, source.path.name) == ("object-cxr", "train.csv")
    assert boxes_of(source) == [
        ("a", "Foreign object", (10, 20, 30, 50)),
        ("a", "Foreign object", (5, 6, 9, 8)),
        ("a", "Foreign object", (1, 1, 7, 9)),
        ("b", "No finding", None),
    ]
    assert source.normal == frozenset(), "no foreign object is not yet a normal chest"


@pytest.mark.parametrize("cell", ["3 1 2 3 4", "0 1 2 3", "1 1 2 3 4 5 6", "2 1 2 3 4", "2 1 2 3 4 5", "0 1 2 3 x"])
def test_bad_shapes_are_named(write, cell):
    with pytest.raises(TableError, match=r"train.csv, line 4: annotation is '.*'; expected '0 x1 y1 x2 y2'"):
        read_source(write({"train.csv": f"{HEADER}{ROWS}c.jpg,{cell}\n"}))
