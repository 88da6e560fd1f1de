"""Time alternatives turn by turn in one process, so that whatever else the machine does hits all of them alike."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from benchmarks.memory import peak_memory_growth

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Clock = Literal["cpu_s", "wall_s"]
    Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Alternative:
    """One way to do a piece of work.

    Attributes:
        name: who does it.
        run: does the work of the round whose number it gets; every alternative does the same work in a round.
    """

    name: str
    run: Callable[[int], object]


@dataclass(frozen=True)
class Timings:
    """Measurement of one alternative.

    Attributes:
        name: the alternative's.
        wall_s: seconds of one item by the clock, one value a round.
        cpu_s: seconds of one item on processors, over all threads, one value a round.
        peak_bytes: growth of resident memory during one round; None where it was not asked for or cannot be read.
    """

    name: str
    wall_s: tuple[float, ...]
    cpu_s: tuple[float, ...]
    peak_bytes: int | None = None


@dataclass(frozen=True)
class Spread:
    """Median and quartiles over the rounds."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Return the spread of ``values``, of which there is at least one."""
        low, median, high = np.percentile(values, [25, 50, 75]).tolist()
        return cls(median, low, high)


@dataclass(frozen=True)
class Comparison:
    """Timings of alternatives that did the same work; the first one is what the others are compared with.

    Attributes:
        title: the work.
        item: what is counted, in the singular.
        timings: one entry an alternative, at least one; each with the same number of rounds.
        clock: what ratios are taken of: ``cpu_s``, or ``wall_s``, which other programs on the machine disturb.
    """

    title: str
    item: str
    timings: tuple[Timings, ...]
    clock: Clock = "cpu_s"

    def speed_up(self, timings: Timings, clock: Clock | None = None) -> Spread:
        """Return how many times as fast as the first alternative ``timings`` is, by the rounds' ratios."""
        clock = clock or self.clock
        pairs = zip(getattr(self.timings[0], clock), getattr(timings, clock), strict=True)
        return Spread.of([reference / own for reference, own in pairs])

    def to_json(self) -> dict[str, Any]:
        """Return every round's seconds and what follows from them."""
        return {
            "title": self.title,
            "item": self.item,
            "compared_with": self.timings[0].name,
            "alternatives": [self._alternative_to_json(timings) for timings in self.timings],
        }

    def _alternative_to_json(self, timings: Timings) -> dict[str, Any]:
        return {
            "name": timings.name,
            "wall_s": list(timings.wall_s),
            "cpu_s": list(timings.cpu_s),
            "median_wall_s": Spread.of(timings.wall_s).median,
            "median_cpu_s": Spread.of(timings.cpu_s).median,
            "items_per_second_per_core": 1 / Spread.of(timings.cpu_s).median,
            "speed_up_wall": vars(self.speed_up(timings, "wall_s")),
            "speed_up_cpu": vars(self.speed_up(timings, "cpu_s")),
            "peak_bytes": timings.peak_bytes,
        }


def compare(
    title: str,
    alternatives: Sequence[Alternative],
    *,
    item: str,
    items_per_round: int,
    rounds: int,
    warm_up: int = 1,
    clock: Clock = "cpu_s",
    memory: bool = False,
    progress: Progress | None = None,
) -> Comparison:
    """Return what ``alternatives`` took, run in turn: A B, B A, A B, … so that neither always comes second.

    Args:
        title: the work, for the table.
        alternatives: the first is what the others are compared with.
        item: what one round does several of, in the singular.
        items_per_round: how many.
        rounds: timed rounds.
        warm_up: rounds before them that do not count; they do the work of round 0.
        clock: what ratios are taken of; ``wall_s`` where a GPU does the work.
        memory: whether to measure resident memory, in one more round each.
        progress: called with the rounds just done and all of them.
    """
    report = progress or (lambda done, total: None)
    wall: dict[str, list[float]] = {alternative.name: [] for alternative in alternatives}
    cpu: dict[str, list[float]] = {alternative.name: [] for alternative in alternatives}
    for _ in range(warm_up):
        for alternative in alternatives:
            alternative.run(0)
    for turn in range(rounds):
        for alternative in alternatives if turn % 2 == 0 else reversed(alternatives):
            cpu_start, wall_start = time.process_time(), time.perf_counter()
            alternative.run(turn)
            wall_end, cpu_end = time.perf_counter(), time.process_time()
            wall[alternative.name].append((wall_end - wall_start) / items_per_round)
            cpu[alternative.name].append((cpu_end - cpu_start) / items_per_round)
        report(1, rounds)
    return Comparison(
        title=title,
        item=item,
        clock=clock,
        timings=tuple(
            Timings(
                name=alternative.name,
                wall_s=tuple(wall[alternative.name]),
                cpu_s=tuple(cpu[alternative.name]),
                peak_bytes=_peak(alternative) if memory else None,
            )
            for alternative in alternatives
        ),
    )


def _peak(alternative: Alternative) -> int | None:
    return peak_memory_growth(lambda: alternative.run(0))
