"""Statements of sources about images beside boxes: the classes looked for, the set of origin, and a given split."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from cxr_mmdet.annotations.table import is_region, read_csv, write_frame
from cxr_mmdet.errors import TableError
from cxr_mmdet.structures.coverage import Coverage
from cxr_mmdet.structures.labels import NO_FINDING

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from pathlib import Path

SET_SEPARATOR = ":"
"""Between a set and its class in the rows of several sets: ``nih:Nodule``."""

_LEVELS = [int(level) for level in Coverage]
_FACTS = ("set", "split", "normal")
"""Columns of the file before those of the classes."""
_CODES: dict[Any, str] = {True: "yes", False: "no"}


@dataclass(frozen=True)
class ImageFacts:
    """Statements about images.

    Attributes:
        coverage: image id → one int8 column per class, values of :class:`Coverage`; classes without a column were not
            looked for, images without a row were looked through for every class. None where all of them were.
        set_of: image id → set, where several sets were built together; classes then begin with the set's name.
        split_of: image id → ``train`` or ``val`` as the source ships it.
        normal: image id → whether it is known to be normal, where the source tells normal chests from others without a
            box of its classes.
    """

    coverage: pd.DataFrame | None = None
    set_of: Mapping[str, str] = field(default_factory=dict)
    split_of: Mapping[str, str] = field(default_factory=dict)
    normal: Mapping[str, bool] = field(default_factory=dict)

    def of_images(self, image_ids: Collection[str]) -> ImageFacts:
        """Return the statements about these images."""
        kept = set(image_ids)
        return replace(
            self,
            coverage=None if self.coverage is None else self.coverage[self.coverage.index.isin(kept)],
            set_of={name: value for name, value in self.set_of.items() if name in kept},
            split_of={name: value for name, value in self.split_of.items() if name in kept},
            normal={name: value for name, value in self.normal.items() if name in kept},
        )

    def of_labels(self, label_map: Mapping[str, Sequence[str]], rows: pd.DataFrame) -> pd.DataFrame | None:
        """Return the coverage of each label; None where every class was looked for.

        A label is exhaustive where all its classes are that the image's set has; where it is not, but has a box, it is
        present and further findings may lack one; else it is unknown. Nothing is unknown of a normal chest.

        Args:
            label_map: each label with the classes it stands for.
            rows: the rows under the names of the labels.
        """
        coverage = self.coverage
        if coverage is None:
            if all(label_map.values()):
                return None
            # A label without a class in this source was not looked for.
            named = [name for classes in label_map.values() for name in classes]
            coverage = coverage_frame(rows["image_id"].unique().tolist(), named)
        names = coverage.index
        sets = np.array([self.set_of.get(name, "") for name in names], dtype=object)
        boxes = rows[(rows["class_name"] != NO_FINDING) & ~is_region(rows)]
        normal = np.array([self.normal.get(name, False) for name in names], dtype=bool)
        columns = {}
        for label, classes in label_map.items():
            level = np.zeros(len(names), dtype=np.int8)
            for each in sorted(set(sets)):
                prefix = f"{each}{SET_SEPARATOR}" if each else ""
                parts = [name for name in classes if name.startswith(prefix)]
                if parts and set(parts) <= set(coverage.columns):
                    own = sets == each
                    level[own] = coverage.loc[own, parts].to_numpy().min(axis=1)
            partial = Coverage.NOT_EXHAUSTIVE * names.isin(set(boxes.loc[boxes["class_name"] == label, "image_id"]))
            columns[label] = np.where((level == Coverage.EXHAUSTIVE) | normal, Coverage.EXHAUSTIVE, partial)
        return pd.DataFrame(columns, index=names, dtype=np.int8)

    def write(self, path: Path) -> None:
        """Write a table that :meth:`read` reads; no file where there is nothing to state."""
        facts = {"set": self.set_of, "split": self.split_of, "normal": self.normal}
        named = set().union(() if self.coverage is None else self.coverage.index, *facts.values())
        if not named:
            path.unlink(missing_ok=True)
            return
        names = sorted(named)
        frame = pd.DataFrame({"image_id": names})
        for column in _FACTS:
            frame[column] = frame["image_id"].map(
                {name: _CODES.get(value, value) for name, value in facts[column].items()}
            )
        if self.coverage is not None:
            levels = self.coverage.reindex(names).astype("Int8").reset_index(drop=True)
            frame = pd.concat([frame, levels], axis=1)
        write_frame(path, frame)

    @classmethod
    def read(cls, path: Path) -> ImageFacts:
        """Return what :meth:`write` wrote; no statement where there is no such file.

        Raises:
            TableError: the file is damaged.
        """
        if not path.is_file():
            return cls()
        frame = read_csv(path, text=None)
        is_whole = {"image_id", *_FACTS} <= set(frame)
        frame = frame.reindex(columns=list(dict.fromkeys(["image_id", *_FACTS, *frame]))).set_index("image_id")
        levels = frame.drop(columns=list(_FACTS)).apply(pd.to_numeric, errors="coerce")
        stated = levels.dropna(how="all")
        if not is_whole or frame.index.has_duplicates or not stated.isin(_LEVELS).all(axis=None):
            raise TableError(
                f"{path}: is damaged; expected each image once, with {', '.join(map(str, _LEVELS))} per class. Build "
                "the folder again with tools/prepare_data.py build --force."
            )
        set_of, split_of, normal = (
            {str(name): str(value) for name, value in frame[column].items() if value} for column in _FACTS
        )
        is_normal = {name: value == _CODES[True] for name, value in normal.items()}
        return cls(stated.astype(np.int8) if len(levels.columns) else None, set_of, split_of, is_normal)


def coverage_frame(image_ids: Sequence[str], classes: Sequence[str]) -> pd.DataFrame:
    """Return a frame for :attr:`ImageFacts.coverage` that states that all classes were looked for on all images."""
    images = pd.Index(image_ids, name="image_id")
    return pd.DataFrame(np.int8(Coverage.EXHAUSTIVE), index=images, columns=list(classes))


class ImageCounts(NamedTuple):
    """Numbers of images on which a class is present, absent, and unknown because nobody looked for it."""

    present: int
    absent: int
    unknown: int


def count_images(rows: pd.DataFrame, classes: Sequence[str], coverage: pd.DataFrame | None) -> dict[str, ImageCounts]:
    """Return the counts of each class on the images of ``rows``.

    Args:
        rows: validated readers' rows.
        classes: the classes to count.
        coverage: image id → one column per class; None where every class was looked for.
    """
    images = pd.Index(rows["image_id"].unique())
    boxes = rows[(rows["class_name"] != NO_FINDING) & ~is_region(rows)]
    found = {}
    for name in classes:
        present = images.isin(boxes.loc[boxes["class_name"] == name, "image_id"])
        level = np.full(len(images), Coverage.EXHAUSTIVE)
        if coverage is not None:
            column = coverage[name] if name in coverage else pd.Series(0, index=coverage.index)
            level = column.reindex(images, fill_value=Coverage.EXHAUSTIVE).to_numpy()
        absent = ~present & (level == Coverage.EXHAUSTIVE)
        found[name] = ImageCounts(*(int(each.sum()) for each in (present, absent, ~present & ~absent)))
    return found
