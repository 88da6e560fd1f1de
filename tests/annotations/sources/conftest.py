"""Golden trees of data sets, laid out as their publishers ship them, with tiny images."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cxr_mmdet.structures.boxes import XYXY_COLUMNS


@pytest.fixture
def write(tmp_path):
    """Write files below a folder: text, or an image where (height, width) is given."""

    def write_files(files):
        for name, content in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, str):
                path.write_text(content)
            else:
                # Each image is another one, or they would be near-duplicates.
                pixels = np.random.default_rng(len(name) + sum(map(ord, name))).integers(0, 255, (8, 8), np.uint8)
                Image.fromarray(pixels).resize(content[::-1]).save(path)
        return tmp_path

    return write_files


@pytest.fixture
def boxes_of():
    """Return (image, class, box) of each row; the box is None for "No finding"."""

    def boxes(source):
        boxes = source.rows[XYXY_COLUMNS].astype(object).to_numpy().tolist()
        names = source.rows[["image_id", "class_name"]].to_numpy().tolist()
        return [
            (image, name, None if np.isnan(box).any() else tuple(box))
            for (image, name), box in zip(names, map(np.float64, boxes), strict=True)
        ]

    return boxes


@pytest.fixture(scope="session")
def real_table():
    """Path of a table that the wheel of torchxrayvision carries beside VinBigData's."""
    table = os.environ.get("CXR_VINBIGDATA_TABLE")
    if not table:
        pytest.skip("CXR_VINBIGDATA_TABLE does not name the table")
    return lambda name: Path(table).with_name(name)
