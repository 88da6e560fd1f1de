"""The command lines that messages name, as the reader's own installation runs them."""

from __future__ import annotations

import os
import re
from functools import partial
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent

_LAUNCHER = re.compile(r"(?P<torchrun>torchrun [^\n]*?)?(?:python )?\btools/(?P<tool>[a-z_]+)\.py")


def command(tool: str, checkout: Path | None = None) -> str:
    """Return how ``tool`` is started here: its launcher in a checkout, ``cxr TOOL`` from an installed wheel.

    Args:
        tool: a launcher's name without suffix, such as ``prepare_data``.
        checkout: the folder that holds ``tools``; the one around the package by default.
    """
    launcher = (checkout or PACKAGE.parent) / "tools" / f"{tool}.py"
    if not launcher.is_file():
        return f"cxr {tool}"
    below = os.path.relpath(launcher)
    return str(launcher) if below.startswith(os.pardir) else Path(below).as_posix()


def name_commands(text: str, checkout: Path | None = None) -> str:
    """Return ``text`` with every ``tools/NAME.py`` as :func:`command` names it."""
    return _LAUNCHER.sub(partial(_name_command, checkout=checkout), text)


def _name_command(match: re.Match[str], checkout: Path | None) -> str:
    runs, torchrun = command(match["tool"], checkout), match["torchrun"] or ""
    # torchrun takes a script, unless it is told that it gets a program.
    return f"{torchrun}{'--no-python ' if torchrun and runs.startswith('cxr ') else ''}{runs}"
