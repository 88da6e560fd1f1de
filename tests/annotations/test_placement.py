"""Boxes within their pictures, and along with them when they shrink."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cxr_mmdet.annotations.placement import keep_within_images, scale_to_prepared
from cxr_mmdet.boxes import XYXY_COLUMNS
from cxr_mmdet.errors import TableError

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
def test_a_box_beyond_its_picture_is_named_or_clipped(box, message):
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
