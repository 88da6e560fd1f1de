"""Several radiographs in a network at once, which share its processor threads."""

from __future__ import annotations

import os
import threading


class Streams:
    """How many may be in the network at once, and with how many threads.

    The threads of one radiograph wait for each other at the end of every layer: several at once, on fewer threads each,
    get through the network faster than one after another, but each of them later.

    Args:
        count: at most so many at once, and no more than threads; others wait for a slot.
        threads: of all together; None: one a core.

    Attributes:
        slots: to hold while in the network.
    """

    def __init__(self, count: int = 1, threads: int | None = None) -> None:
        self.threads = threads
        self.count = min(count, self.all_threads)
        self.slots = threading.Semaphore(self.count)

    @property
    def all_threads(self) -> int:
        """Threads of all streams together."""
        return self.threads or os.cpu_count() or 1

    @property
    def threads_each(self) -> int:
        """Threads of each stream."""
        return max(1, self.all_threads // self.count)
