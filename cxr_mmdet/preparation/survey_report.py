"""A survey as people read it: one table of what there is, then what stands out."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from rich import box
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from cxr_mmdet.preparation.survey import Survey
    from cxr_mmdet.preparation.table_match import TableMatch

SHOWN_VALUES = 8
SHOWN_NAMES = 5


def survey_table(survey: Survey) -> Table:
    """Return how many files have which value of each property; frequent ones first, rare ones summed up."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("property", no_wrap=True)
    table.add_column("value", overflow="fold")
    table.add_column("files", justify="right")
    rows = survey.counts | ({"warnings": survey.warnings} if survey.warnings else {})
    for name, counts in rows.items():
        title = name.replace("_", " ")
        for value, count in list(counts.items())[:SHOWN_VALUES]:
            table.add_row(title, escape(value), f"{count:,}")
            title = ""
        rest = list(counts.values())[SHOWN_VALUES:]
        if rest:
            table.add_row("", f"{len(rest)} more", f"{sum(rest):,}")
        table.add_section()
    return table


def survey_lines(survey: Survey) -> Iterator[str]:
    """Yield a sentence or a list for everything that a person should look at."""
    yield f"{survey.readable:,} radiographs, {len(survey.unreadable):,} unreadable, {survey.other_files:,} other files"
    yield _patients(survey)
    if survey.identical:
        copies = sum(len(names) - 1 for names in survey.identical)
        yield f"{copies:,} pictures are identical to another: {_listed([' = '.join(g) for g in survey.identical])}"
    if survey.burned_in:
        yield f"{len(survey.burned_in):,} say that text is burnt into the pixels: {_listed(survey.burned_in)}"
    yield from _unreadable(survey)
    yield from _table(survey.table)


def _patients(survey: Survey) -> str:
    line = f"{survey.patients:,} patients, {len(survey.several):,} with several pictures"
    if survey.several:
        line += f" (at most {max(map(len, survey.several.values())):,})"
    if survey.without_patient:
        line += f"; {survey.without_patient:,} radiographs state no Patient ID"
    return line


def _unreadable(survey: Survey) -> Iterator[str]:
    for reason, count in Counter(survey.unreadable.values()).most_common():
        names = [name for name, other in survey.unreadable.items() if other == reason]
        yield f"unreadable, {count:,}: {reason}: {_listed(names)}"


def _table(table: TableMatch | None) -> Iterator[str]:
    if table is None:
        yield "no train.csv beside the radiographs"
    elif table.problem:
        yield f"table: {table.problem}"
    elif table.is_complete:
        yield f"table: {table.images:,} images, each with its file; every box lies in its picture"
    else:
        yield f"table: {table.images:,} images"
        if table.without_file:
            yield f"table: {len(table.without_file):,} images without a file: {_listed(table.without_file)}"
        if table.without_row:
            yield f"table: {len(table.without_row):,} files without a row: {_listed(table.without_row)}"
        if table.boxes_outside:
            outside = sum(table.boxes_outside.values())
            yield f"table: {outside:,} boxes reach beyond their picture: {_listed(list(table.boxes_outside))}"


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN_NAMES:,} more" if len(names) > SHOWN_NAMES else ""
    return ", ".join(names[:SHOWN_NAMES]) + more
