import sys

import numpy as np
import pytest

from benchmarks.memory import peak_memory_growth
from cxr_mmdet import memory

MEGABYTE = 2**20

linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux counts the peak so")


@linux
@pytest.mark.parametrize("megabytes", [64, 128])
def test_counts_what_the_work_touched_at_its_peak(megabytes):
    def work() -> None:
        for _ in range(3):  # one after the other: the peak is one of them
            np.ones(megabytes * MEGABYTE, np.uint8)

    growth = peak_memory_growth(work)
    assert growth is not None
    assert megabytes * MEGABYTE * 0.95 <= growth <= (megabytes + 16) * MEGABYTE


@linux
def test_an_earlier_peak_does_not_hide_a_later_one():
    np.ones(256 * MEGABYTE, np.uint8)
    growth = peak_memory_growth(lambda: np.ones(64 * MEGABYTE, np.uint8))
    assert growth is not None
    assert growth >= 60 * MEGABYTE


def test_a_kernel_that_does_not_count_gives_none(monkeypatch, tmp_path):
    done = []
    monkeypatch.setattr(memory, "_PROCESS", tmp_path / "proc")
    assert peak_memory_growth(lambda: done.append(1)) is None
    assert done == [1]


def test_errors_of_the_work_come_through():
    with pytest.raises(OSError, match="disk"):
        peak_memory_growth(lambda: (_ for _ in ()).throw(OSError("disk")))
