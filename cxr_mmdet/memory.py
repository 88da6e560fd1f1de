"""How much memory this process holds, as the kernel counts it."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

PROCESS = Path("/proc/self")


def peak_bytes() -> int | None:
    """Return the peak of this process's resident memory, None where the kernel does not count it.

    getrusage would tell its parent's, where that was higher.
    """
    with suppress(OSError):
        for line in (PROCESS / "status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return None
