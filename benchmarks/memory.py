"""Peak resident memory of a piece of work, as counted by the kernel."""

from __future__ import annotations

import ctypes
import gc
from contextlib import suppress
from typing import TYPE_CHECKING

from cxr_mmdet.memory import peak_bytes, reset_peak

if TYPE_CHECKING:
    from collections.abc import Callable


def peak_memory_growth(work: Callable[[], object]) -> int | None:
    """Return by how many bytes resident memory grew at most while ``work`` ran; None where the kernel does not count.

    Memory that earlier work freed is given back to the system first: taking it again would not count.
    """
    gc.collect()
    with suppress(OSError, AttributeError):  # a libc other than glibc
        ctypes.CDLL(None).malloc_trim(0)
    reset_peak()
    before = peak_bytes()
    work()
    after = peak_bytes()
    return None if before is None or after is None else after - before
