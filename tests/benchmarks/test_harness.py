import itertools

import pytest
from rich.console import Console

from benchmarks import harness
from benchmarks.harness import Alternative, Comparison, Spread, Timings, compare
from benchmarks.report import comparison_table


def recording(log: list[tuple[str, int]], *names: str) -> list[Alternative]:
    def alternative(name: str) -> Alternative:
        return Alternative(name, lambda turn: log.append((name, turn)))

    return [alternative(name) for name in names]


def run(alternatives: list[Alternative], **options) -> Comparison:
    defaults = dict(item="image", items_per_round=1, rounds=3)
    return compare("Work", alternatives, **(defaults | options))


def test_alternatives_take_turns_and_neither_always_comes_second():
    log: list[tuple[str, int]] = []
    run(recording(log, "a", "b"), rounds=3, warm_up=0)
    assert log == [("a", 0), ("b", 0), ("b", 1), ("a", 1), ("a", 2), ("b", 2)]


def test_warm_up_does_the_first_rounds_work_and_does_not_count():
    log: list[tuple[str, int]] = []
    comparison = run(recording(log, "a", "b"), rounds=1, warm_up=2)
    assert log == [("a", 0), ("b", 0)] * 3
    assert [len(timings.wall_s) for timings in comparison.timings] == [1, 1]


def test_seconds_are_those_of_one_item(monkeypatch):
    """Each look at a clock is 3 s later by the wall, 2 s on processors; a round has 4 items."""
    wall, cpu = itertools.count(step=3), itertools.count(step=2)
    monkeypatch.setattr(harness.time, "perf_counter", lambda: next(wall))
    monkeypatch.setattr(harness.time, "process_time", lambda: next(cpu))
    comparison = run(recording([], "a", "b"), items_per_round=4, rounds=2)
    for timings in comparison.timings:
        assert timings.wall_s == (3 / 4, 3 / 4)
        assert timings.cpu_s == (2 / 4, 2 / 4)


def test_progress_counts_rounds():
    seen: list[tuple[int, int]] = []
    run(recording([], "a", "b"), rounds=3, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3)] * 3


def test_memory_is_measured_only_where_asked(monkeypatch):
    log: list[tuple[str, int]] = []
    monkeypatch.setattr(harness, "peak_memory_growth", lambda work: work() or 7)
    assert [entry.peak_bytes for entry in run(recording(log, "a"), rounds=1).timings] == [None]
    assert len(log) == 2  # warm-up and one round
    assert [entry.peak_bytes for entry in run(recording(log, "a"), rounds=1, memory=True).timings] == [7]
    assert len(log) == 2 + 3


def test_spread_is_median_and_quartiles():
    assert Spread.of([5, 1, 2, 4, 3]) == Spread(median=3, low=2, high=4)
    assert Spread.of([2.5]) == Spread(2.5, 2.5, 2.5)


REFERENCE = Timings("stock", wall_s=(8.0, 8.0, 8.0), cpu_s=(4.0, 6.0, 8.0))
OURS = Timings("ours", wall_s=(1.0, 2.0, 4.0), cpu_s=(2.0, 2.0, 2.0))


def test_speed_is_the_median_of_the_rounds_own_ratios():
    comparison = Comparison("Work", "image", (REFERENCE, OURS))
    assert comparison.speed_up(OURS) == Spread.of([4 / 2, 6 / 2, 8 / 2])
    assert comparison.speed_up(OURS, "wall_s") == Spread.of([8 / 1, 8 / 2, 8 / 4])
    assert comparison.speed_up(REFERENCE) == Spread(1, 1, 1)


def test_the_clock_of_a_gpu_is_the_wall():
    comparison = Comparison("Work", "image", (REFERENCE, OURS), clock="wall_s")
    assert comparison.speed_up(OURS).median == 8 / 2
    log: list[tuple[str, int]] = []
    assert run(recording(log, "a"), clock="wall_s").clock == "wall_s"


def test_json_holds_every_round_and_what_follows():
    report = Comparison("Work", "image", (REFERENCE, OURS)).to_json()
    assert (report["title"], report["item"], report["compared_with"]) == ("Work", "image", "stock")
    ours = report["alternatives"][1]
    assert ours["name"] == "ours"
    assert (ours["wall_s"], ours["cpu_s"]) == ([1.0, 2.0, 4.0], [2.0, 2.0, 2.0])
    assert (ours["median_wall_s"], ours["median_cpu_s"]) == (2.0, 2.0)
    assert ours["items_per_second_per_core"] == 1 / 2
    assert ours["speed_up_cpu"] == {"median": 3.0, "low": 2.5, "high": 3.5}
    assert ours["speed_up_wall"]["median"] == 4.0
    assert ours["peak_bytes"] is None


@pytest.mark.parametrize("rounds", [1, 2])
def test_every_alternative_has_every_round(rounds):
    comparison = run(recording([], "a", "b", "c"), rounds=rounds)
    assert [timings.name for timings in comparison.timings] == ["a", "b", "c"]
    assert {len(timings.cpu_s) for timings in comparison.timings} == {rounds}


def test_a_narrow_terminal_folds_names_and_keeps_every_figure(capsys):
    names = ("rtmdet_tiny, OpenVINO int8, a long name", "yolo11s, OpenVINO int8")
    timings = tuple(Timings(name, wall_s=(0.04321,) * 3, cpu_s=(0.08765,) * 3) for name in names)
    Console(width=80).print(comparison_table(Comparison("Network alone", "image", timings, clock="wall_s")))
    printed = capsys.readouterr().out
    assert "…" not in printed
    assert printed.count("43.21") == printed.count("87.65") == printed.count("1.00-1.00") == 2
