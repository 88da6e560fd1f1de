"""Files that many tests read and that are slow to make: made once per run of the suite, by the worker that asks first.

``shared`` gives every worker of pytest-xdist the same path. What lies there is read-only: after each test that asked
for it, a fixture of ``conftest.py`` fails the test if it has changed. A test that needs to change one copies it.
"""

from __future__ import annotations

import functools
import logging
import shutil
import sys
from typing import TYPE_CHECKING

from filelock import FileLock

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_folder: list[Path] = []
_stamps: dict[Path, dict[Path, tuple[int, int]]] = {}
_asked_for: set[Path] = set()


def set_folder(folder: Path) -> None:
    """Set the folder of all workers; ``conftest.py`` does it before the first test."""
    folder.mkdir(exist_ok=True)
    _folder[:] = [folder]


def shared(name: str, make: Callable[[Path], object]) -> Path:
    """Return the file or folder of this name; the first caller of all workers has ``make`` write it.

    Args:
        name: names the content wholly: two callers that use one name must want the same.
        make: takes a path that does not exist yet and ends like ``name``.
    """
    path = _folder[0] / name
    if path not in _stamps:
        with FileLock(f"{path}.lock"):
            if not path.exists():
                half = path.with_name(f"half-{name}")
                if half.exists():  # by a worker that was killed
                    shutil.rmtree(half) if half.is_dir() else half.unlink()
                make(half)
                half.rename(path)
        _stamps[path] = _stamps_of(path)
    _asked_for.add(path)
    return path


def changed() -> list[Path]:
    """Return the shared files that are not as they were made, of those that were asked for since the last call."""
    pairs = [(_stamps[path], _stamps_of(path)) for path in _asked_for]
    _asked_for.clear()
    return sorted({file for made, now in pairs for file, _ in made.items() ^ now.items()})


def _stamps_of(path: Path) -> dict[Path, tuple[int, int]]:
    """Return size and time of change of a file, or of all files in a folder."""
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    return {file: (file.stat().st_size, file.stat().st_mtime_ns) for file in files}


def repeat_nothing_slow() -> None:
    """Keep what mmengine, once imported, works out each time; tests that start processes of their own see it as it is.

    It parses the hundred YAML files of mmdet's model index for each config read (0.2 s), lays out the config's text by
    yapf eight times in each training (3 s), and asks compilers for their versions (0.3 s).
    """
    runner = sys.modules.get("mmengine.runner.runner")
    if runner is None or hasattr(runner.collect_env, "cache_info"):
        return
    from mmengine.config import utils
    from yapf.yapflib import yapf_api

    utils.load = functools.cache(utils.load)
    yapf_api.FormatCode = lambda text, **style: (text, False)
    runner.collect_env = functools.cache(runner.collect_env)


def drop_closed_logs() -> None:
    """Take log files out of mmengine's loggers that a server has closed since: uvicorn's logging closes all there are.

    A model that is built later in this process would write its initialisation to them.
    """
    module = sys.modules.get("mmengine.logging.logger")
    for logger in module.MMLogger._instance_dict.values() if module else ():
        logger.handlers = [
            handler
            for handler in logger.handlers
            if not isinstance(handler, logging.FileHandler) or handler.stream is not None
        ]
