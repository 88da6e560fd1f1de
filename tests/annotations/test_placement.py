"""Boxes within their images, and along with them when they shrink."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import ExifTags, Image, ImageOps

from cxr_mmdet.annotations.placement import fit_to_images, keep_within_images, scale_to_prepared
from cxr_mmdet.errors import TableError
from cxr_mmdet.structures.boxes import XYXY_COLUMNS

SIZES_HW = {"a": (100, 200), "b": (50, 40)}
TABLE = Path("train.csv")


def rows(*boxes):
    frame = pd.DataFrame(boxes, columns=["image_id", *XYXY_COLUMNS])
    return frame.assign(line=range(2, len(frame) + 2))


def test_boxes_up_to_the_border_and_no_boxes_pass_unchanged():
    given = rows(("a", 0, 0, 200, 100), ("b", 1, 2, 3, 4), ("b", *[np.nan] * 4))
    kept, clipped = keep_within_images(given, SIZES_HW, TABLE, clip=False)
    pd.testing.assert_frame_equal(kept, given, check_dtype=False)
    assert clipped == 0


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ((0, 0, 201, 100), "x_max 201 is beyond the image width 200"),
        ((0, 0, 200, 100.5), "y_max 100.5 is beyond the image height 100"),
        ((-1, 0, 200, 100), "x_min -1 is negative"),
        ((0, -0.5, 200, 100), "y_min -0.5 is negative"),
    ],
)
def test_a_box_beyond_its_image_is_named_or_clipped(box, message):
    given = rows(("b", 1, 2, 3, 4), ("a", *box))
    with pytest.raises(TableError, match=re.escape(f"train.csv, line 3: {message}; fix the row, or pass --clip-boxes")):
        keep_within_images(given, SIZES_HW, TABLE, clip=False)
    kept, clipped = keep_within_images(given, SIZES_HW, TABLE, clip=True)
    assert clipped == 1
    assert kept[XYXY_COLUMNS].iloc[1].tolist() == [0, 0, 200, 100]
    assert kept[XYXY_COLUMNS].iloc[0].tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize("clip", [True, False])
def test_a_box_wholly_outside_is_refused_even_when_clipping(clip):
    given = rows(("b", 41, 2, 50, 4), ("a", 0, 0, 300, 10), ("b", 1, 60, 3, 70))
    message = "line 2 (and 1 more): x_min 41 is beyond the image width 40; fix or remove the row"
    with pytest.raises(TableError, match=re.escape(message)) as error:
        keep_within_images(given, SIZES_HW, TABLE, clip=clip)
    assert "--clip-boxes" not in str(error.value)


def test_each_axis_has_its_own_factor():
    given = rows(("a", 20, 10, 200, 100), ("b", 4, 5, 8, 10))
    scaled = scale_to_prepared(given, SIZES_HW, {"a": (30, 50), "b": (50, 40)})
    assert scaled[XYXY_COLUMNS].to_numpy().tolist() == [
        [20 * 50 / 200, 10 * 30 / 100, 50, 30],
        [4, 5, 8, 10],
    ]


def test_no_boxes_at_all():
    assert scale_to_prepared(rows(), SIZES_HW, SIZES_HW).empty
    assert keep_within_images(rows(), SIZES_HW, TABLE, clip=False)[1] == 0


SIDES = ["table_height", "table_width"]


def sized(boxes, stated_hw):
    """Return rows of image "a" with these boxes, and the size that the table gives."""
    frame = pd.DataFrame(boxes, columns=XYXY_COLUMNS, dtype=float).assign(image_id="a", line=1)
    return frame.assign(table_height=stated_hw[0], table_width=stated_hw[1])


def test_boxes_of_a_resized_copy_are_scaled_and_it_is_said():
    rows, notes = fit_to_images(sized([[10, 20, 30, 60]], (100, 50)), {"a": (1001, 500)}, {}, Path("t.json"))
    np.testing.assert_allclose(rows[XYXY_COLUMNS].to_numpy(), [[100, 200.2, 300, 600.6]])
    assert not set(SIDES) & set(rows.columns)
    assert notes == [
        "the boxes of 1 image were drawn on images of another size and were scaled, such as a: 50 x 100 in t.json, "
        "500 x 1001 here."
    ]


@pytest.mark.parametrize("stated_hw", [(50, 100), (100, 60), (0, 0)])
def test_a_size_of_another_shape_is_refused(stated_hw):
    with pytest.raises(
        TableError, match=r"t.json, image 'a': its width and height are .*, but its image file is 50 x 100"
    ):
        fit_to_images(sized([[1, 2, 3, 4]], stated_hw), {"a": (100, 50)}, {}, Path("t.json"))


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_boxes_drawn_before_an_image_was_turned_are_turned_with_it(orientation):
    """Against Pillow, which turns the image whose pixels are the box."""
    stored = np.zeros((40, 70), np.uint8)
    stored[5:12, 20:50] = 255
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    image = Image.fromarray(stored)
    image.getexif().update(exif)
    upright = np.asarray(ImageOps.exif_transpose(image))
    assert upright.shape == (70, 40)
    y, x = np.nonzero(upright)
    rows, notes = fit_to_images(sized([[20, 5, 50, 12]], (40, 70)), {"a": (70, 40)}, {"a": orientation}, Path("t.json"))
    assert rows[XYXY_COLUMNS].to_numpy().tolist() == [[x.min(), y.min(), x.max() + 1, y.max() + 1]]
    assert len(notes) == 1
    assert "the boxes were turned too" in notes[0]
    # Drawn on the upright image, they stay.
    rows, notes = fit_to_images(sized([[1, 2, 3, 4]], (70, 40)), {"a": (70, 40)}, {"a": orientation}, Path("t.json"))
    assert (rows[XYXY_COLUMNS].to_numpy().tolist(), notes) == ([[1, 2, 3, 4]], [])


def test_a_table_that_does_not_tell_is_taken_as_drawn_upright_and_it_is_said():
    rows, notes = fit_to_images(
        sized([[1, 2, 3, 4]], (70, 40)).drop(columns=SIDES), {"a": (70, 40)}, {"a": 6}, Path("t.csv")
    )
    assert rows[XYXY_COLUMNS].to_numpy().tolist() == [[1, 2, 3, 4]]
    assert "t.csv does not say whether its boxes were drawn before or after" in notes[0]
    _, notes = fit_to_images(sized([[1, 2, 3, 4]], (70, 40)), {"a": (70, 40)}, {"a": 3}, Path("t.json"))
    assert "does not say" in notes[0]
