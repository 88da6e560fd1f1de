"""A label set over readers' rows: classes are merged before fusion, so that other words for a finding still meet."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING

from cxr_mmdet.annotations.table import class_names
from cxr_mmdet.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd


def merge_classes(rows: pd.DataFrame, label_map: Mapping[str, Sequence[str]]) -> pd.DataFrame:
    """Return the rows under the names of the labels; classes that no label stands for keep theirs.

    Args:
        rows: validated readers' rows.
        label_map: each label with the classes it stands for, as :func:`cxr_mmdet.labels.resolve_label_map` gives it.

    Raises:
        UsageError: a label has the name of a class in the table that it does not stand for.
    """
    label_of = {name: label for label, classes in label_map.items() for name in classes}
    for name in class_names(rows):
        if name in label_map and label_of.get(name) != name:
            raise UsageError(
                f"label {name}: the table has a class of this name that the label does not hold; add it to the "
                "brackets, or give the label another name."
            )
    renamed = {name: label for name, label in label_of.items() if name != label}
    return rows.assign(class_name=rows["class_name"].replace(renamed)) if renamed else rows


def unknown_classes(rows: pd.DataFrame, label_map: Mapping[str, Sequence[str]]) -> dict[str, str | None]:
    """Return the classes of the label set that the table lacks, each with the class it may have meant, if any.

    Args:
        rows: validated readers' rows, before their classes are merged.
        label_map: each label with the classes it stands for.
    """
    known = class_names(rows)
    named = [name for classes in label_map.values() for name in classes]
    others = [name for name in known if name not in named]
    close = {name: get_close_matches(name, others, n=1) for name in named if name not in known}
    return {name: matches[0] if matches else None for name, matches in close.items()}
