"""The recipes and the switches, by name: where their files lie, found without loading anything that trains."""

from __future__ import annotations

import ast
import difflib
import json
from pathlib import Path
from typing import TYPE_CHECKING

from cxr_mmdet.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

PACKAGE = Path(__file__).resolve().parent

BY_NAME = "cxr::"
"""In a config's ``_base_``: a recipe, as ``cxr::retina_5cls``, or a file of the configs' folder."""


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
    if switched := _recipe_with_switch(path.stem, names):
        raise ConfigError(f"{name}: no such config; pass {switched} instead.")
    near = difflib.get_close_matches(path.stem, names, n=3) or names
    raise ConfigError(f"{name}: no such config; give a path, or one of the recipes: {', '.join(near)}.")


def _recipe_with_switch(name: str, recipes: Sequence[str]) -> str | None:
    """Return the recipe, with a switch where there is one, that a name such as ``retina_14cls_gate`` stands for.

    Detectors other than the reference's take their classes from the prepared folder: ``gfl_5cls`` stands for ``gfl``.
    """
    for recipe in sorted(recipes, key=len, reverse=True):
        rest = name.removeprefix(f"{recipe}_")
        if rest in switch_names():
            return f"{recipe} --with {rest}"
        if rest in ("5cls", "14cls"):
            return f"{recipe} --labels {rest.removesuffix('cls')}"
    return None


def describe_config(name: str) -> str:
    """Return what a recipe is: the comment in its first line."""
    return _first_comment(config_folder() / f"{name}.py")


def resolve_base(name: str, beside: Path) -> str:
    """Return a name of a config's ``_base_`` as an absolute path; a config of another package (``mmdet::``) as it is.

    Args:
        name: ``cxr::`` and a recipe or a file of the configs' folder, or a path.
        beside: the folder that a relative path starts from.

    Raises:
        ConfigError: there is no such recipe.
    """
    if not name.startswith(BY_NAME):
        return name if "::" in name else str(beside.resolve() / name)
    wanted = name.removeprefix(BY_NAME)
    for path in (config_folder() / wanted, config_folder() / f"{wanted}.py"):
        if path.is_file():
            return str(path)
    return str(resolve_config(wanted))


def rename_bases(text: str, rename: Callable[[str], str]) -> str:
    """Return the text of a config with each name in its ``_base_`` replaced by ``rename`` of it.

    Raises:
        SyntaxError: it is no Python.
        ValueError: ``_base_`` is not a plain text or list of texts.
    """
    for statement in ast.parse(text).body:
        if isinstance(statement, ast.Assign) and [getattr(to, "id", None) for to in statement.targets] == ["_base_"]:
            names = ast.literal_eval(statement.value)
            renamed = rename(names) if isinstance(names, str) else [rename(name) for name in names]
            lines = text.splitlines(keepends=True)
            several = isinstance(renamed, list) and len(renamed) > 1
            value = json.dumps(renamed, indent=4 if several else None, ensure_ascii=False)
            lines[statement.lineno - 1 : statement.end_lineno] = [f"_base_ = {value}\n"]
            return "".join(lines)
    return text


def copy_of(name: str) -> str:
    """Return the text of a config of one's own that starts as a copy of a recipe, for any folder."""
    path = resolve_config(name)
    folder = config_folder().resolve()

    def by_name(base: str) -> str:
        resolved = resolve_base(base, path.parent)
        inside = Path(resolved).is_relative_to(folder)
        return f"{BY_NAME}{Path(resolved).relative_to(folder).as_posix()}" if inside else resolved

    return rename_bases(path.read_text(encoding="utf-8"), by_name)


def switch_names() -> list[str]:
    """Return the names of the switches that lie beside the recipes' bases."""
    return sorted(path.stem for path in _switch_folder().glob("*.py"))


def describe_switch(name: str) -> str:
    """Return what a switch does: the comment in its first line."""
    return _first_comment(_switch_folder() / f"{name}.py")


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


def _first_comment(path: Path) -> str:
    with path.open(encoding="utf-8") as lines:
        return next(lines).removeprefix("#").strip()


def _switch_folder() -> Path:
    return config_folder() / "_base_" / "switches"
