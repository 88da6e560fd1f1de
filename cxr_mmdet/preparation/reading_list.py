"""A prepared folder's radiographs that a further reader should look at."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich import box
from rich.table import Table

from cxr_mmdet.annotations.next_reads import next_reads
from cxr_mmdet.annotations.reader_consensus import ReaderModel, fit_readers
from cxr_mmdet.annotations.table import merge_classes
from cxr_mmdet.errors import UsageError
from cxr_mmdet.preparation.annotate import ANNOTATIONS, PARAMETERS_NAME
from cxr_mmdet.preparation.prepared import PreparedFolder

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd


def reading_list(folder: Path, n: int, *, label_set: str | None = None) -> pd.DataFrame:
    """Return the radiographs that :func:`cxr_mmdet.annotations.next_reads.next_reads` chooses.

    The readers' parameters are the folder's own, else they are learned from its readers' boxes.

    Args:
        folder: a finished prepared folder.
        n: how many.
        label_set: name of one of its label sets; None: the first.

    Raises:
        UsageError: there is no such label set.
        TableError: no two readers share a radiograph.
        DatasetError: the folder is not finished, or damaged.
    """
    prepared = PreparedFolder.load(folder)
    by_name = {each.name: each for each in prepared.label_sets}
    chosen = by_name.get(label_set or next(iter(by_name)))
    if chosen is None:
        raise UsageError(f"--labels {label_set}: {folder} has the label sets {', '.join(by_name)}.")
    rows = merge_classes(prepared.rows, chosen.label_map)
    parameters = folder / ANNOTATIONS / PARAMETERS_NAME.format(chosen.name)
    if parameters.is_file():
        model = ReaderModel.load(parameters, ())
    else:
        model = fit_readers(rows, chosen.labels, alternatives=False)
    return next_reads(rows, model, n)


def reading_list_table(chosen: pd.DataFrame) -> Table:
    """Return what to print of a reading list."""
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("radiograph", no_wrap=True)
    for header in ("expected\nchange", "readers\nso far", "boxes\nso far"):
        table.add_column(header, justify="right")
    for row in chosen.itertuples(index=False):
        table.add_row(str(row.image_id), f"{row.expected_change:.2f}", str(row.readers), str(row.boxes))
    return table
