"""Parallel work: worker processes on this machine, a Dask cluster, or threads, behind one kind of generator."""

from __future__ import annotations

import signal
import threading
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import closing, contextmanager
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

import cv2
import joblib
from joblib.externals.loky.process_executor import BrokenProcessPool

from cxr_mmdet.errors import CxrError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Sequence

Task = TypeVar("Task")
Result = TypeVar("Result")

DASK_TIMEOUT = 10
"""Seconds in which a scheduler answers, or is not there."""


@contextmanager
def worker_pool(jobs: int | None = 1, dask: str | None = None) -> Iterator[int | None]:
    """Yield the ``jobs`` to hand on, after making a Dask cluster the place of the work where one is named.

    Args:
        jobs: worker processes on this machine; not asked for with ``dask``.
        dask: the scheduler's address, as ``tcp://host:8786``. Its workers see the same paths and have the same
            packages; as many radiographs are under way as its workers have threads.

    Raises:
        UsageError: the package is missing, or no scheduler answers at the address.
    """
    if dask is None:
        yield jobs
        return
    try:
        from distributed import Client
    except ImportError:
        raise UsageError(
            '--dask needs the package distributed, which is not installed; pip install "cxr-mmdet[dask]"'
        ) from None
    try:
        client = Client(dask, timeout=DASK_TIMEOUT)
    # An address that means nothing raises ValueError or TypeError, one where nobody listens OSError or TimeoutError.
    except (OSError, TimeoutError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:160]
        raise UsageError(
            f"--dask {dask}: no scheduler answers ({reason}); expected an address such as tcp://host:8786"
        ) from None
    with client, joblib.parallel_config(backend="dask", wait_for_workers_timeout=DASK_TIMEOUT):
        yield None


def map_unordered(
    function: Callable[..., Result], tasks: Sequence[tuple[Any, ...]], *, jobs: int | None, batch_size: int = 1
) -> Generator[Result, None, None]:
    """Yield ``function(*task)`` of each task as soon as it is ready; closing the generator ends the workers.

    Only a few tasks a worker are under way, so that memory does not grow with the number of tasks.

    Args:
        function: importable by the workers.
        tasks: their arguments.
        jobs: worker processes; 1 works right here, -1 starts one per core, None leaves it to ``worker_pool`` or another
            ``parallel_config``.
        batch_size: tasks sent to a worker at once; more than one pays off for tasks of a few milliseconds.

    Raises:
        CxrError: a worker was killed.
    """
    if jobs == 1 or len(tasks) < 2:
        yield from (function(*task) for task in tasks)
        return
    parallel = joblib.Parallel(n_jobs=jobs, return_as="generator_unordered", batch_size=batch_size)
    try:
        with _new_processes_ignore_ctrl_c():  # the call starts the workers
            started = parallel(joblib.delayed(_single_threaded)(function, *task) for task in tasks)
        with closing(started) as results:
            yield from results
    except BrokenProcessPool:
        raise CxrError(
            "a worker process was killed, most likely because memory ran out; run the command again with fewer --jobs."
        ) from None


def map_in_threads(
    function: Callable[[Task], Result], tasks: Iterable[Task], *, threads: int
) -> Generator[Result, None, None]:
    """Yield ``function(task)`` of each task as soon as it is ready.

    A task begins when a thread is free for it, so that memory does not grow with the number of tasks. After an error,
    or when the generator is closed, no further task begins; those under way are finished first.
    """
    waiting = iter(tasks)
    with ThreadPoolExecutor(threads) as pool:
        under_way = {pool.submit(function, task) for task in islice(waiting, threads)}
        while under_way:
            done, under_way = wait(under_way, return_when=FIRST_COMPLETED)
            if not any(future.exception() for future in done):
                under_way |= {pool.submit(function, task) for task in islice(waiting, len(done))}
            for future in done:
                yield future.result()


@contextmanager
def _new_processes_ignore_ctrl_c() -> Iterator[None]:
    """Let processes that start here ignore SIGINT, which a terminal sends to all: this process ends them itself.

    A worker that is interrupted while it starts prints a traceback. New processes inherit what is ignored, but neither
    handlers nor, through joblib, the mask of signals.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before or signal.SIG_DFL)


def _single_threaded(function: Callable[..., Result], *task: Any) -> Result:
    cv2.setNumThreads(1)  # one process a core: OpenCV's own threads would only get in each other's way
    return function(*task)
