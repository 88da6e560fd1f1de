"""The VinDr-CXR release's files, and which table a folder holds."""

import re

import pytest

from cxr_mmdet.annotations.sources import read_source
from cxr_mmdet.annotations.sources.vinbigdata import label_names, read_image_labels
from cxr_mmdet.errors import TableError

HEADER = "image_id,rad_id,class_name,x_min,y_min,x_max,y_max"
BOXES = ("a,R1,Edema,1,2,3,4", "a,R2,Edema,1,2,3,5", "b,R1,Rib fracture,1,1,2,2")
LABELS = "image_id,rad_id,Edema,Rib fracture,Pneumonia,Other diseases,No finding"
READINGS = ("a,R1,1,0,1,0,0", "a,R2,1,0,0,0,0", "b,R1,0,1,0,0,0", "b,R2,0,0,0,0,1", "c,R1,0.0,0,1,,0")


@pytest.fixture
def release(tmp_path):
    """Write a release's two training files and return its root."""

    def write(boxes=(HEADER, *BOXES), labels=(LABELS, *READINGS), part="train"):
        folder = tmp_path / "annotations"
        folder.mkdir(exist_ok=True)
        (folder / f"annotations_{part}.csv").write_text("\n".join(boxes))
        if labels:
            (folder / f"image_labels_{part}.csv").write_text("\n".join(labels))
        return tmp_path

    return write


def test_readings_without_a_box_are_readings(release):
    root = release()
    table = read_source(root)
    assert table.path == root / "annotations/annotations_train.csv"
    last = table.rows.iloc[3:]
    assert last[["image_id", "reader", "class_name", "line"]].to_numpy().tolist() == [
        ["b", "R2", "No finding", 5],
        ["c", "R1", "No finding", 6],
    ]
    assert set(table.rows["class_id"]) == {0, 1, 2}
    assert last[["x_min", "y_max"]].isna().all(axis=None)
    assert table.notes == ("2 readings without a box from image_labels_train.csv.",)
    assert label_names(table.image_labels) == ["Edema", "Rib fracture", "Pneumonia", "Other diseases"]
    assert table.image_labels["Pneumonia"].tolist() == [True, False, False, False, True]


def test_boxes_and_image_labels_that_differ_are_noted(release):
    labels = (LABELS, "a,R1,0,1,0,0,0", *READINGS[1:])
    notes = read_source(release(labels=labels)).notes
    assert "1 finding has a box but no image-level label, the first is Edema by R1 on image a" in notes[1]
    assert "1 finding has an image-level label but no box, the first is Rib fracture by R1 on image a" in notes[2]


def test_the_test_part_has_one_consensus_reader(release):
    boxes = ("image_id,class_name,x_min,y_min,x_max,y_max", "a,Edema,1,2,3,4", "b,No finding,,,,")
    labels = ("image_id,Edema,Other disease,No finding", "a,1,0,0", "b,0,,1")
    root = release(boxes=boxes, labels=labels, part="test")
    table = read_source(root / "annotations/annotations_test.csv")
    assert table.rows["reader"].unique().tolist() == ["R1"]
    assert label_names(table.image_labels) == ["Edema", "Other diseases"]
    assert "of one reader, R1" in table.notes[0]


def test_a_release_without_image_labels_is_read(release):
    assert read_source(release(labels=None)).image_labels is None


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a,R1,1,0,1,0,1", "line 2: reader R1 says 'No finding' and Edema, Pneumonia of image a"),
        ("a,R1,2,0,1,0,0", "line 2: Edema is '2', expected 0 or 1"),
        ("a,R1,yes,0,1,0,0", "line 2: Edema is 'yes', expected 0 or 1"),
        ("b,R2,0,0,0,0,1", "line 5: repeats an earlier reading"),
        ("a,,0,0,0,0,1", "line 2: reader is empty"),
    ],
)
def test_bad_image_labels_are_named_by_their_line(release, line, message):
    root = release(labels=(LABELS, line, *READINGS[1:]))
    with pytest.raises(TableError, match=re.escape(f"image_labels_train.csv, {message}")):
        read_source(root)


def test_a_file_without_images_is_no_label_file(tmp_path):
    (tmp_path / "labels.csv").write_text("a;b\n1;2\n")
    with pytest.raises(TableError, match="line 1: expected image_id, rad_id and labels, found a;b"):
        read_image_labels(tmp_path / "labels.csv")


def test_a_group_column_reaches_the_readings_without_boxes(release):
    boxes = (f"{HEADER},patient", *(f"{line},p{line[0]}" for line in BOXES))
    labels = (LABELS, *READINGS[:4])
    rows = read_source(release(boxes=boxes, labels=labels), group_column="patient").rows
    assert rows.groupby("image_id")["group"].unique().map(list).to_dict() == {"a": ["pa"], "b": ["pb"]}
    with pytest.raises(TableError, match=r"image_labels_train.csv, line 6: .* patient is unknown"):
        read_source(release(boxes=boxes), group_column="patient")


def test_train_csv_comes_first(release):
    root = release()
    (root / "train.csv").write_text(f"{HEADER}\na,Edema,R1,1,2,3,4")
    assert read_source(root).path == root / "train.csv"


def test_vindr_pcxr_spells_the_reader_otherwise(release):
    header = HEADER.replace("rad_id", "rad_ID")
    root = release(boxes=(header, *BOXES), labels=(LABELS.replace("rad_id", "rad_ID"), *READINGS))
    source = read_source(root)
    assert source.format == "vinbigdata"
    assert source.rows["reader"].unique().tolist() == ["R1", "R2"]
    labels = ("image_id,rad_ID,Bronchitis,No finding", "a,R1,1,0", "a,R2,1,0", "b,R1,0,0")
    notes = read_source(release(boxes=(header, *BOXES), labels=labels)).notes
    assert not any("image-level label" in note for note in notes), "diseases and findings say nothing of each other"
    release(boxes=(header, "a,7,Other opacity,1,2,3,4"), labels=None, part="test")
    assert read_source(root / "annotations/annotations_test.csv").rows["reader"].tolist() == ["7"], "no number"
