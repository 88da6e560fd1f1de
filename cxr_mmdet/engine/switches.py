"""Switches: small configs laid over a recipe, whatever the recipe is, ``--with ema,early_stopping``."""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING, Any

from mmengine.config import ConfigDict
from mmengine.utils import import_modules_from_strings

from cxr_mmdet.errors import ConfigError
from cxr_mmdet.recipes import resolve_switches

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from mmengine.config import Config

KEY = "switches"
"""In a recipe: the names of the switches that it always has on."""

_ADDED = "custom_hooks"


def lay_switches_over(config: Config, names: Sequence[str] = ()) -> None:
    """Change ``config`` by its own ``switches``, then by the switches ``names``, each once, in this order.

    A switch is a text config that sees what it is laid over as ``_base_``. Its keys merge as a child's keys merge into
    its base's, with ``_delete_`` and lists that replace lists; only ``custom_hooks`` are added to those of the base, so
    that switches do not take away each other's. A hook with options a user may want to set stands under a name in
    ``default_hooks``. mmengine's own inheritance could not: two bases may not share a key.

    Raises:
        ConfigError: there is no such switch, or it cannot be laid over this config.
    """
    own = config.pop(KEY, ())
    if isinstance(own, str):
        own = [own]
    for path in resolve_switches([*own, *names]):
        _lay_over(config, path)


def _lay_over(config: Config, path: Path) -> None:
    try:
        changes = _run(path, config.to_dict())
        hooks = changes.pop(_ADDED, [])
        config.merge_from_dict(changes)
        if "custom_imports" in changes:  # mmengine imports them when it reads a file
            import_modules_from_strings(**config.custom_imports)
        if hooks:
            config[_ADDED] = [*(config.get(_ADDED) or []), *hooks]
    except ConfigError:
        raise
    except Exception as error:  # a switch is a program, as every config is
        raise ConfigError(f"switch {path.stem} does not fit this config: {type(error).__name__}: {error}") from error


def _run(path: Path, base: dict[str, Any]) -> dict[str, Any]:
    variables: dict[str, Any] = {"_base_": ConfigDict(base), "__file__": str(path)}
    exec(compile(path.read_text(encoding="utf-8"), str(path), "exec"), variables)
    return {
        name: value
        for name, value in variables.items()
        if not (name.startswith("_") or callable(value) or isinstance(value, ModuleType))
    }
