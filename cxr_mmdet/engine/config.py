"""From the name of a config and the user's options to a config that a run can be built from."""

from __future__ import annotations

import difflib
import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from mmdet.registry import MODELS
from mmengine.config import Config, DictAction
from mmengine.runner import Runner

from cxr_mmdet.engine.switches import lay_switches_over
from cxr_mmdet.errors import ConfigError
from cxr_mmdet.recipes import config_folder as config_folder
from cxr_mmdet.recipes import config_names as config_names
from cxr_mmdet.recipes import resolve_config, resolve_switches

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_KNOWN_KEYS = frozenset(inspect.signature(Runner.__init__).parameters) - {"self", "cfg"} | {
    "auto_scale_lr",
    "classes",
    "custom_imports",
    "data_root",
    "find_unused_parameters",
    "log_level",
    "sync_bn",
    "test_pipeline",
    "train_pipeline",
    "vis_backends",
}
"""Top-level keys that mean something: what the Runner takes or looks up, and the variables of our dataset bases."""

NO_WEIGHTS = "none"
_RANDOM_START = {"init_cfg": None, "frozen_stages": -1, "norm_eval": False}


def load_config(
    name: str,
    *,
    data_root: Path | None = None,
    work_dir: Path | None = None,
    load_from: str | None = None,
    switches: Sequence[str] = (),
    cfg_options: Sequence[str] = (),
) -> Config:
    """Return the config ``name`` with switches and the user's options put in, in this order.

    Args:
        name: a path or the name of a recipe.
        data_root: replaces every dataset's and evaluator's ``data_root``.
        work_dir: where the run writes; ``work_dirs/<config>`` if neither this nor the config says, and then
            ``work_dirs/<config>+<switch>`` for what is another training.
        load_from: starting weights, a file or URL; ``none`` starts from random weights, and then lets the backbone's
            norms and first stage train, without which a random backbone stays random.
        switches: laid over the config, see :func:`~cxr_mmdet.engine.switches.lay_switches_over`.
        cfg_options: ``key=value`` as MMDetection's tools take them.

    Raises:
        ConfigError: no such config or switch, one that cannot be read, or a key that nothing would read.
    """
    path = resolve_config(name)
    config = _read(path)
    lay_switches_over(config, switches)
    config.merge_from_dict(_parse_options(cfg_options, config))
    unknown = sorted(set(config) - _KNOWN_KEYS)
    if unknown:
        raise ConfigError(f"{path}: nothing reads the key {', '.join(unknown)}; {_nearest(unknown[0], _KNOWN_KEYS)}")
    if data_root is not None:
        for part in annotated_parts(config._cfg_dict):
            part["data_root"] = str(data_root)
    if work_dir is not None or config.get("work_dir") is None:
        run = "+".join([path.stem, *(switch.stem for switch in resolve_switches(switches))])
        config.work_dir = str(work_dir or Path("work_dirs") / run)
    if load_from is not None:
        config.load_from = None if load_from == NO_WEIGHTS else load_from
    if load_from == NO_WEIGHTS:
        train_whole_backbone(config)
    return config


def train_whole_backbone(config: Config) -> None:
    """Let every stage and norm of the backbone train, and ask for no weights of its own: for a random start.

    A switch that the backbone does not have stays away: Swin, for one, has no norms to freeze.
    """
    backbone = config.model.backbone
    kind = MODELS.get(backbone.type)
    known = _RANDOM_START if kind is None else inspect.signature(kind).parameters
    backbone.update({key: value for key, value in _RANDOM_START.items() if key in known})
    if (backbone.get("norm_cfg") or {}).get("requires_grad") is False:
        backbone.norm_cfg.requires_grad = True


def enable_amp(config: Config) -> None:
    """Turn mixed precision on: float16 with a scaled loss on a GPU, bfloat16, which needs no scaling, on a CPU."""
    if torch.cuda.is_available():
        config.optim_wrapper.update(type="AmpOptimWrapper", loss_scale="dynamic")
    else:
        config.optim_wrapper.update(type="CpuAmpOptimWrapper")


def check_start(config: Config) -> None:
    """Check that nothing is frozen which has not learned anything.

    Raises:
        ConfigError: stages of the backbone would keep random weights.
    """
    backbone = config.model.get("backbone", {})
    frozen = backbone.get("frozen_stages", -1)
    if frozen >= 0 and not (config.get("load_from") or backbone.get("init_cfg")):
        raise ConfigError(
            f"model.backbone.frozen_stages is {frozen} and no weights are loaded, so frozen stages would stay random; "
            "give --load-from FILE, or --with whole_backbone in place of frozen stages."
        )


def check_class_counts(config: Config, classes: Sequence[str]) -> None:
    """Check every ``num_classes`` of the model against the dataset's classes.

    Raises:
        ConfigError: they differ; training would fail late or, with fewer classes, silently learn nonsense.
    """
    wrong = [(where, count) for where, count in _num_classes(config.model, "model") if count != len(classes)]
    if wrong:
        where, count = wrong[0]
        options = " ".join(f"{place}={len(classes)}" for place, _ in wrong)
        raise ConfigError(
            f"{where} is {count}, the data holds {len(classes)} classes ({', '.join(classes)}); "
            f"pass --cfg-options {options}, or choose the recipe of this label set."
        )


def annotated_parts(config: Any) -> list[dict[str, Any]]:
    """Return every dataset, however wrapped, and evaluator in a part of a config: what names an annotation file."""
    return list(_with_annotations(config))


def _read(path: Path) -> Config:
    try:
        return Config.fromfile(path)
    except Exception as error:  # a config is a program: anything can happen in it
        raise ConfigError(f"{path}: cannot be read as a config: {type(error).__name__}: {error}") from error


def _parse_options(options: Sequence[str], config: Config) -> dict[str, Any]:
    parsed = {}
    for option in options:
        key, equals, value = option.partition("=")
        if not equals or not key:
            raise ConfigError(f"--cfg-options {option}: is not of the form key=value, as in train_cfg.max_iters=500.")
        first = key.split(".", 1)[0]
        known = set(config) | _KNOWN_KEYS
        if first not in known:
            raise ConfigError(f"--cfg-options {option}: nothing reads the key {first}; {_nearest(first, known)}")
        parsed[key] = DictAction._parse_iterable(value)
    return parsed


def _nearest(key: str, known: set[str] | frozenset[str]) -> str:
    near = difflib.get_close_matches(key, sorted(known), n=1)
    return f"did you mean {near[0]}?" if near else "remove it."


def _with_annotations(config: Any) -> Iterator[dict[str, Any]]:
    if isinstance(config, dict):
        if "ann_file" in config:
            yield config
        for value in config.values():
            yield from _with_annotations(value)
    elif isinstance(config, (list, tuple)):
        for value in config:
            yield from _with_annotations(value)


def _num_classes(config: Any, where: str) -> Iterator[tuple[str, int]]:
    if isinstance(config, dict):
        for key, value in config.items():
            if key == "num_classes":
                yield f"{where}.{key}", value
            else:
                yield from _num_classes(value, f"{where}.{key}")
    elif isinstance(config, (list, tuple)):
        for index, value in enumerate(config):
            yield from _num_classes(value, f"{where}.{index}")
