"""Whether a readers' table and the radiographs beside it belong together."""

from __future__ import annotations

import unicodedata
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cxr_mmdet.annotations.table import read_table
from cxr_mmdet.boxes import XYXY_COLUMNS
from cxr_mmdet.errors import DatasetError, TableError
from cxr_mmdet.preparation.images import find_radiographs, image_id_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

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


def match_ids(named: Iterable[str], sources: Mapping[str, Path]) -> tuple[dict[str, str], list[str]]:
    """Return the file's image id for each id of the table that has one, and the ids that have none, sorted.

    An id that is no file's is compared again without regard to Unicode's two forms of accents (macOS names files in
    the one, most tables are in the other) and to a suffix in the table; it must then mean one file that no other id
    means.

    Args:
        named: the ids of the table.
        sources: image id → file.
    """
    names = sorted(set(named))
    found = {name: name for name in names if name in sources}
    by_form: dict[str, list[str]] = defaultdict(list)
    for image_id in sources:
        if image_id not in found:
            by_form[unicodedata.normalize("NFC", image_id)].append(image_id)
    meant: dict[str, list[str]] = defaultdict(list)
    for name in names:
        form = unicodedata.normalize("NFC", name)
        candidates = by_form.get(form) or by_form.get(image_id_of(Path(form))) or []
        if name not in found and len(candidates) == 1:
            meant[candidates[0]].append(name)
    found |= {owners[0]: image_id for image_id, owners in meant.items() if len(owners) == 1}
    return found, [name for name in names if name not in found]


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
    found, without_file = match_ids(rows["image_id"], sources)
    rows = rows.assign(image_id=rows["image_id"].map(lambda name: found.get(name, name)))
    named = set(rows["image_id"])
    by_image = {image_id: path.relative_to(src).as_posix() for image_id, path in sources.items()}
    known = {image_id: sizes_hw[name] for image_id, name in by_image.items() if name in sizes_hw}
    return TableMatch(
        images=len(named),
        without_file=tuple(without_file),
        without_row=tuple(image_id for image_id in sources if image_id not in named),
        boxes_outside=_boxes_outside(rows[rows["image_id"].isin(known)], known),
    )


def _boxes_outside(rows: pd.DataFrame, sizes_hw: Mapping[str, tuple[int, int]]) -> dict[str, int]:
    boxes = rows[XYXY_COLUMNS].to_numpy(np.float64)
    limits = np.array([sizes_hw[image_id][::-1] * 2 for image_id in rows["image_id"]], np.float64).reshape(-1, 4)
    # "No finding" has no box: comparisons with NaN are False.
    outside = rows["image_id"].to_numpy()[((boxes < 0) | (boxes > limits)).any(axis=1)]
    return dict(sorted(Counter(map(str, outside)).items()))
