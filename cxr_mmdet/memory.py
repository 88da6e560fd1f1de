"""Peak memory of this process, as counted by the kernel."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

_PROCESS = Path("/proc/self")
_RESET_PEAK = "5"  # proc(5), clear_refs


def peak_bytes() -> int | None:
    """Return the peak of this process's resident memory, None where the kernel does not count it.

    getrusage would tell its parent's, where that was higher.
    """
    with suppress(OSError):
        for line in (_PROCESS / "status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return None


def reset_peak() -> None:
    """Let the peak start again from what is resident now, where the kernel can."""
    with suppress(OSError):
        (_PROCESS / "clear_refs").write_text(_RESET_PEAK)
