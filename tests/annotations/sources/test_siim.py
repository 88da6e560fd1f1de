"""SIIM-FISABIO-RSNA COVID-19 and SIIM-ACR Pneumothorax."""

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from cxr_mmdet.annotations.sources import read_source
from cxr_mmdet.annotations.sources.geometry import relative_rle_extent
from cxr_mmdet.errors import TableError

COVID = "id,boxes,label,StudyInstanceUID"
TWO_BOXES = (
    "a1_image,\"[{'x': 10.5, 'y': 20.0, 'width': 30.0, 'height': 40.0}, {'x': 50, 'y': 60, 'width': 7, 'height': 8}]\","
    "opacity 1 10.5 20 40.5 60 opacity 1 50 60 57 68,s1"
)
COVID_ROWS = (TWO_BOXES, "a2_image,,none 1 0 0 1 1,s1", "b1_image,,none 1 0 0 1 1,s2", "c1_image,,none 1 0 0 1 1,s3")
STUDIES = (
    "id,Negative for Pneumonia,Typical Appearance,Indeterminate Appearance,Atypical Appearance",
    "s1_study,0,1,0,0",
    "s2_study,1,0,0,0",
    "s3_study,0,0,0,1",
)
MASKS = "ImageId, EncodedPixels"


def lines(*rows):
    return "\n".join(rows) + "\n"


def test_covid_boxes_are_those_of_the_label(write, boxes_of):
    root = write({"train_image_level.csv": lines(COVID, *COVID_ROWS), "train_study_level.csv": lines(*STUDIES)})
    source = read_source(root)
    assert source.format == "siim-covid"
    assert boxes_of(source) == [
        ("a1", "opacity", (10.5, 20, 10.5 + 30, 20 + 40)),
        ("a1", "opacity", (50, 60, 50 + 7, 60 + 8)),
        ("b1", "No finding", None),
        ("c1", "No finding", None),
    ]
    assert source.unread == ("a2",), "nobody drew on the second image of a study"
    assert "1 image without a box, such as a2, in a study whose boxes were drawn on another image" in source.notes[0]
    assert source.rows["group"].tolist() == ["s1", "s1", "s2", "s3"]
    assert source.normal == frozenset(), "negative for pneumonia is no normal chest"
    assert "table_width" not in source.rows, "pixels of the original"


@pytest.mark.parametrize(
    "row",
    [
        "d_image,,opacity 1 1 2 3,s4",
        "d_image,,opaque 1 1 2 3 4,s4",
        "d_image,,none 1 0 0 9 9,s4",
        "d_image,,,s4",
        "d_image,\"[{'x': 1, 'y': 1, 'width': 1, 'height': 1}]\",none 1 0 0 1 1,s4",
        "d_image,\"[{'x': 1,\",opacity 1 1 2 3 4,s4",
        'd_image,"[__import__(""os"")]",opacity 1 1 2 3 4,s4',
        "d_image,,opacity 1 a 2 3 4,s4",
    ],
)
def test_covid_bad_cells_are_named(write, row):
    with pytest.raises(TableError, match=r"train_image_level.csv, line 6: label is '.*' and boxes .*; expected 'opac"):
        read_source(write({"train_image_level.csv": lines(COVID, *COVID_ROWS, row)}))


def test_masks_are_columns_first_and_each_row_is_a_region(write, boxes_of):
    # Columns 2 and 3, rows 5…8; then column 0, row 1023, and column 1, row 0: a run over the end of a column.
    runs = f"{2 * 1024 + 5} 4 {1024 - 4} 4"
    rows = (MASKS, f"1.2.3, {runs}", "1.2.3, 1023 2", "1.2.4, -1", "1.2.5,-1")
    source = read_source(write({"train-rle.csv": lines(*rows)}))
    assert source.format == "siim-acr"
    assert boxes_of(source) == [
        ("1.2.3", "Pneumothorax", (2, 5, 3 + 1, 8 + 1)),
        ("1.2.3", "Pneumothorax", (0, 0, 2, 1024)),
        ("1.2.4", "No finding", None),
        ("1.2.5", "No finding", None),
    ]
    assert set(source.rows["table_width"]) == {1024}
    assert source.normal == frozenset()


@pytest.mark.parametrize("cell", ["", "5", "5 -4", "5 x", "5 0", f"5 {1024 * 1024}", "-1 4"])
def test_bad_masks_are_named(write, cell):
    with pytest.raises(
        TableError, match=r"train-rle.csv, line 3: EncodedPixels begins with '.*'; expected -1, or pairs"
    ):
        read_source(write({"train-rle.csv": lines(MASKS, "1.2.3, 5 4", f"1.2.4, {cell}")}))


def test_extent_of_runs_is_that_of_the_decoded_mask():
    rng = np.random.default_rng(0)
    for _ in range(50):
        mask = np.zeros((9, 7), np.uint8)
        y, x = rng.integers(0, (7, 5))
        mask[y : y + rng.integers(1, 4), x : x + rng.integers(1, 4)] = 1
        flat = mask.T.ravel()
        edges = np.flatnonzero(np.diff(np.concatenate([[0], flat, [0]])))
        runs = np.diff(np.concatenate([[0], edges])).tolist()
        rows, columns = np.nonzero(mask)
        expected = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        assert relative_rle_extent(runs, mask.shape) == expected
        assert coco_mask.toBbox(coco_mask.encode(np.asfortranarray(mask))).tolist()[:2] == list(expected[:2])


@pytest.mark.vinbigdata
def test_the_real_pneumothorax_table_is_read_whole(real_table):
    source = read_source(real_table("siim-pneumothorax-train-rle.csv.gz"))
    assert source.format == "siim-acr"
    assert source.rows["image_id"].nunique() == 12_047
    assert source.rows["class_name"].value_counts().to_dict() == {"No finding": 9_378, "Pneumothorax": 3_576}
    found = source.rows[source.rows["class_name"] == "Pneumothorax"]
    assert found["image_id"].nunique() == 2_669
    # The first mask of the file, by its own definition: 557374 pixels before it, 1024 in a column.
    first = found[found["image_id"] == "1.2.276.0.7230010.3.1.4.8323329.13666.1517875247.117800"]
    assert first["x_min"].tolist() == [557_374 // 1024]
