"""Whether a readers' table and the radiographs beside it belong together."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cxr_mmdet.annotations.table import read_table
from cxr_mmdet.boxes import XYXY_COLUMNS
from cxr_mmdet.errors import DatasetError, TableError
from cxr_mmdet.preparation.images import find_radiographs

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import pandas as pd

TABLE_NAME = "train.csv"


@dataclass(frozen=True)
class TableMatch:
    """How ``train.csv`` fits the radiographs.

    Attributes:
        problem: why the two cannot be compared at all; then the rest is empty.
        images: how many images the table names.
        without_file: images of the table for which there is no file.
        without_row: files for which there is no row, so that nobody read them.
        boxes_outside: image → how many of its boxes reach beyond its picture.
    """

    problem: str | None = None
    images: int = 0
    without_file: tuple[str, ...] = ()
    without_row: tuple[str, ...] = ()
    boxes_outside: dict[str, int] | None = None

    @property
    def is_complete(self) -> bool:
        """Return whether every row has its file, every file its row, and every box lies in its picture."""
        return not (self.problem or self.without_file or self.without_row or self.boxes_outside)


def match_table(src: Path, sizes_hw: Mapping[str, tuple[int, int]]) -> TableMatch | None:
    """Return how ``src/train.csv`` fits the radiographs in ``src/train`` or ``src``; None where there is no table.

    Args:
        src: the folder.
        sizes_hw: path below ``src`` → rows and columns, of the files that could be read.
    """
    table = src / TABLE_NAME
    if not table.is_file():
        return None
    try:
        rows = read_table(table)
        sources = find_radiographs(src)
    except (TableError, DatasetError) as error:
        return TableMatch(problem=str(error))
    named = set(rows["image_id"])
    by_image = {image_id: path.relative_to(src).as_posix() for image_id, path in sources.items()}
    known = {image_id: sizes_hw[name] for image_id, name in by_image.items() if name in sizes_hw}
    return TableMatch(
        images=len(named),
        without_file=tuple(sorted(named.difference(sources))),
        without_row=tuple(image_id for image_id in sources if image_id not in named),
        boxes_outside=_boxes_outside(rows[rows["image_id"].isin(known)], known),
    )


def _boxes_outside(rows: pd.DataFrame, sizes_hw: Mapping[str, tuple[int, int]]) -> dict[str, int]:
    boxes = rows[XYXY_COLUMNS].to_numpy(np.float64)
    limits = np.array([sizes_hw[image_id][::-1] * 2 for image_id in rows["image_id"]], np.float64).reshape(-1, 4)
    # "No finding" has no box: comparisons with NaN are False.
    outside = rows["image_id"].to_numpy()[((boxes < 0) | (boxes > limits)).any(axis=1)]
    return dict(sorted(Counter(map(str, outside)).items()))
