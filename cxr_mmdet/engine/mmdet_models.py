"""Models out of mmdet's own recipes, for our bases of architectures that mmdet has no base of."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from mmengine.config import Config, ConfigDict

from cxr_mmdet.errors import ConfigError


def mmdet_model(name: str) -> ConfigDict:
    """Return the ``model`` of one of mmdet's recipes.

    ``mmdet::`` inheritance would bring COCO's data and schedule along, and reads mmdet's whole model index first.
    Arguments and errors are those of :func:`mmdet_recipe`.
    """
    return Config.fromfile(mmdet_recipe(name)).model


def mmdet_recipe(name: str) -> Path:
    """Return the path of one of mmdet's recipes.

    Args:
        name: in mmdet's folder of configs, such as ``atss/atss_r50_fpn_1x_coco.py``.

    Raises:
        ConfigError: the installed mmdet has no such recipe.
    """
    mmdet = find_spec("mmdet")
    assert mmdet is not None, "a dependency"
    assert mmdet.origin is not None, "a package with a file"
    path = Path(mmdet.origin).parent / ".mim" / "configs" / name
    if not path.is_file():
        raise ConfigError(f"mmdet::{name}: the installed mmdet has no such config; correct the name in the base.")
    return path
