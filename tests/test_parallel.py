"""Workers of both kinds do the same work, and what kills them is said in one sentence."""

from __future__ import annotations

import os

import pytest
from worker_tasks import die, square_and_process

from cxr_mmdet.errors import CxrError, UsageError
from cxr_mmdet.parallel import map_in_threads, map_unordered, worker_pool

TASKS = [(number,) for number in range(6)]


@pytest.mark.parametrize("jobs", [1, 2])
def test_every_task_is_done_once_in_as_many_processes(jobs: int) -> None:
    results = list(map_unordered(square_and_process, TASKS, jobs=jobs))
    assert sorted(square for square, _ in results) == [0, 1, 4, 9, 16, 25]
    assert (os.getpid() in {process for _, process in results}) is (jobs == 1)


def test_nothing_to_do() -> None:
    assert list(map_unordered(square_and_process, [], jobs=2)) == []


def test_a_killed_worker_is_one_sentence() -> None:
    with pytest.raises(CxrError, match="a worker process was killed, most likely because memory ran out"):
        list(map_unordered(die, TASKS, jobs=2))


def test_a_dask_cluster_does_the_same() -> None:
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(n_workers=1, threads_per_worker=2, dashboard_address=None) as cluster,
        worker_pool(jobs=1, dask=cluster.scheduler_address) as jobs,
    ):
        assert jobs is None
        results = list(map_unordered(square_and_process, TASKS, jobs=jobs))
    assert sorted(square for square, _ in results) == [0, 1, 4, 9, 16, 25]
    assert os.getpid() not in {process for _, process in results}


def test_without_dask_the_jobs_are_handed_on() -> None:
    with worker_pool(jobs=3) as jobs:
        assert jobs == 3


def test_an_address_without_scheduler_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("distributed")
    monkeypatch.setattr("cxr_mmdet.parallel.DASK_TIMEOUT", 0.5)
    for address in ("tcp://127.0.0.1:9", "nonsense"):
        with (
            pytest.raises(UsageError, match=rf"--dask {address}: no scheduler answers") as caught,
            worker_pool(1, address),
        ):
            pass
        assert "\n" not in str(caught.value)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "distributed", None)
    with pytest.raises(UsageError, match=r'pip install "cxr-mmdet\[dask\]"'), worker_pool(1, "tcp://127.0.0.1:9"):
        pass


def test_threads_take_a_task_only_when_they_are_free() -> None:
    taken: list[int] = []
    results = map_in_threads(lambda number: number, (taken.append(number) or number for number in range(20)), threads=3)
    first = next(results)
    assert len(taken) <= 6
    assert sorted([first, *results]) == list(range(20))


def test_no_task_begins_after_an_error() -> None:
    begun: list[int] = []

    def fail(number: int) -> None:
        begun.append(number)
        raise UsageError("no")

    with pytest.raises(UsageError, match="no"):
        list(map_in_threads(fail, range(20), threads=2))
    assert len(begun) <= 2
