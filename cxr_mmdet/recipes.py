"""The recipes and the switches, by name: where their files lie, found without loading anything that trains."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import TYPE_CHECKING

from cxr_mmdet.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

PACKAGE = Path(__file__).resolve().parent


def config_folder() -> Path:
    """Return the folder of the configs: inside the wheel, or beside the package in a checkout."""
    inside = PACKAGE / "configs"
    return inside if inside.is_dir() else PACKAGE.parent / "configs"


def config_names() -> list[str]:
    """Return the names of the recipes, without suffix."""
    return sorted(path.stem for path in config_folder().glob("*.py"))


def resolve_config(name: str) -> Path:
    """Return the path of a config given as a path, or by the name of a recipe such as ``retina_5cls``.

    Raises:
        ConfigError: there is no such config; the message offers the nearest names.
    """
    path = Path(name)
    candidates = [path, config_folder() / path.name, config_folder() / f"{path.name}.py"]
    for candidate in candidates:
        if candidate.suffix == ".py" and candidate.is_file():
            return candidate
    names = config_names()
    near = difflib.get_close_matches(path.stem, names, n=3) or names
    raise ConfigError(f"{name}: no such config; give a path, or one of the recipes: {', '.join(near)}.")


def switch_names() -> list[str]:
    """Return the names of the switches that lie beside the recipes' bases."""
    return sorted(path.stem for path in _switch_folder().glob("*.py"))


def describe_switch(name: str) -> str:
    """Return what a switch does: the comment in its first line."""
    with (_switch_folder() / f"{name}.py").open(encoding="utf-8") as lines:
        return next(lines).removeprefix("#").strip()


def resolve_switches(names: Sequence[str]) -> list[Path]:
    """Return the paths of switches, each once.

    Args:
        names: of switches, or paths of one's own; each may be several, with commas between.

    Raises:
        ConfigError: there is no such switch; the message offers the nearest name and lists all.
    """
    single = (part.strip() for name in names for part in name.split(","))
    return list(dict.fromkeys(_resolve_switch(name) for name in single if name))


def _resolve_switch(name: str) -> Path:
    known = switch_names()
    if name in known:
        return _switch_folder() / f"{name}.py"
    path = Path(name)
    if path.suffix == ".py" and path.is_file():
        return path
    near = difflib.get_close_matches(path.stem, known, n=1)
    guess = f"did you mean {near[0]}? " if near else ""
    raise ConfigError(f"{name}: no such switch; {guess}the switches are {', '.join(known)}, or give a file's path.")


def _switch_folder() -> Path:
    return config_folder() / "_base_" / "switches"
