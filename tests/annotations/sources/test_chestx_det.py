"""ChestX-Det10 and ChestX-Det."""

import json

import pytest

from cxr_mmdet.annotations.sources import read_source
from cxr_mmdet.errors import TableError

ENTRIES = [
    {"file_name": "36204.png", "syms": [], "boxes": [], "polygons": []},
    {"file_name": "36205.png", "syms": ["Nodule", "Effusion"], "boxes": [[10, 20, 30, 40], [1, 2, 3, 4]]},
]


def test_empty_lists_are_a_normal_chest(write, boxes_of):
    root = write({"ChestX_Det_train.json": json.dumps(ENTRIES), "ChestX_Det_test.json": json.dumps(ENTRIES[:1])})
    source = read_source(root)
    assert (source.format, source.path.name, source.unit) == ("chestx-det", "ChestX_Det_train.json", "image")
    assert boxes_of(source) == [
        ("36204", "No finding", None),
        ("36205", "Nodule", (10, 20, 30, 40)),
        ("36205", "Effusion", (1, 2, 3, 4)),
    ]
    assert source.coverage is None
    assert source.normal is None
    assert len(source.classes) == 13, "with polygons"
    without = [{key: value for key, value in entry.items() if key != "polygons"} for entry in ENTRIES]
    (root / "ChestX_Det_train.json").unlink()
    assert len(read_source(write({"train.json": json.dumps(without)})).classes) == 10


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"file_name": "c.png", "syms": ["Mass"], "boxes": []}, r"image 3: its syms \['Mass'\] and boxes \[\] differ"),
        ({"file_name": "c.png", "syms": ["Mass"], "boxes": [[1, 2, 3]]}, r"image 3: has the box \[1, 2, 3\]; expected"),
        ({"file_name": "c.png", "syms": ["Mass"], "boxes": [[1, 2, "3", 4]]}, r"image 3: has the box"),
        (
            {"file_name": "c.png", "syms": ["Mass"], "boxes": [[30, 2, 3, 4]]},
            r"image 3: x_max 3 is not beyond x_min 30",
        ),
        ({"syms": [], "boxes": []}, r"image 3: has no file_name"),
        ([], r"image 3: has no file_name"),
    ],
)
def test_bad_entries_are_named(write, entry, message):
    with pytest.raises(TableError, match=r"train.json, " + message):
        read_source(write({"train.json": json.dumps([*ENTRIES, entry])}))


def test_a_file_that_is_cut_off_is_named(write):
    with pytest.raises(TableError, match=r"train.json: is not JSON"):
        read_source(write({"train.json": json.dumps(ENTRIES)[:-9]}))
