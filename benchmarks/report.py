"""Comparisons as people read them: tables for a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich import box
from rich.table import Table

from benchmarks.harness import Spread

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from benchmarks.harness import Comparison
    from benchmarks.pipeline import StepTime
    from benchmarks.predict import PredictionBenchmark

_MEGABYTE = 1e6


def comparison_table(comparison: Comparison) -> Table:
    """Return one row per alternative: milliseconds of an item, items per second, times as fast as the first.

    Compared by processor time, the rate is per core. Compared by the clock, the work of other processes or of a GPU
    counts too, and a further column states the processor time of this process as a multiple of the first's.
    """
    timings = comparison.timings
    table = _table(f"{comparison.title}: ms per {comparison.item}, {len(timings[0].wall_s)} rounds")
    with_memory = any(entry.peak_bytes is not None for entry in timings)
    by_clock = comparison.clock == "wall_s"
    rate = f"{comparison.item}s/s" if by_clock else f"{comparison.item}s/s/core"
    for header in ("clock", "CPU", rate, "speed", "quartiles", *["CPU ratio"] * by_clock, *["peak MB"] * with_memory):
        table.add_column(header, justify="right", no_wrap=True)
    for entry in timings:
        wall, cpu, speed_up = Spread.of(entry.wall_s), Spread.of(entry.cpu_s), comparison.speed_up(entry)
        table.add_row(
            entry.name,
            _milliseconds(wall.median),
            _milliseconds(cpu.median),
            f"{1 / (wall if by_clock else cpu).median:.3g}",
            f"{_ratio(speed_up.median)}x",
            f"{_ratio(speed_up.low)}-{_ratio(speed_up.high)}",
            *[_ratio(1 / comparison.speed_up(entry, "cpu_s").median)] * by_clock,
            *[_megabytes(entry.peak_bytes)] * with_memory,
        )
    return table


def steps_table(steps: Sequence[StepTime]) -> Table:
    """Return where an image's CPU time goes, step by step."""
    table = _table("Where the time goes: CPU ms per image")
    for header in ("stock mmdet", "cxr_mmdet"):
        table.add_column(header, justify="right", no_wrap=True)
    for step in steps:
        stock = "" if step.stock_s is None else _milliseconds(step.stock_s)
        table.add_row(step.step, stock, _milliseconds(step.ours_s))
    return table


def prediction_table(result: PredictionBenchmark) -> Table:
    """Return what a new process takes for its first finding, and how far each way is from torch.

    Seconds from starting Python, the peak of that process's memory, torch's findings without counterpart, and the
    largest differences of a box's side and a score.
    """
    table = _table("First finding of a new process; agreement with torch")
    for header in ("first, s", "peak MB", "unmatched", "box, px", "score"):
        table.add_column(header, justify="right", no_wrap=True)
    first = {entry.name: entry for entry in result.first}
    parity = {entry.name: entry for entry in result.parity}
    for name in dict.fromkeys((*first, *parity)):
        start, agreement = first.get(name), parity.get(name)
        table.add_row(
            name,
            "" if start is None else f"{start.seconds:.1f}",
            "" if start is None else _megabytes(start.peak_bytes),
            "" if agreement is None else f"{agreement.unmatched}/{agreement.findings}",
            "" if agreement is None else f"{agreement.largest_box_difference_px:.2g}",
            "" if agreement is None else f"{agreement.largest_score_difference:.1g}",
        )
    return table


def machine_line(machine: Mapping[str, str]) -> str:
    """Return the machine and versions as one line."""
    return ", ".join(value if " " in value else f"{name} {value}" for name, value in machine.items())


def _table(title: str) -> Table:
    table = Table(title=title, title_style="bold", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("", overflow="fold")  # a narrow terminal folds names, and never cuts figures
    return table


def _ratio(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.1f}"


def _milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:.2f}" if seconds < 0.1 else f"{1000 * seconds:.0f}"


def _megabytes(size: int | None) -> str:
    return "n/a" if size is None else f"{size / _MEGABYTE:.0f}"
