"""From the name of a config and the user's options to a config that a run can be built from."""

from __future__ import annotations

import difflib
import inspect
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from mmdet.registry import MODELS
from mmengine.config import Config, DictAction
from mmengine.runner import Runner

from cxr_mmdet.engine.switches import lay_switches_over
from cxr_mmdet.errors import ConfigError, DatasetError, UsageError, counted
from cxr_mmdet.recipes import BY_NAME, rename_bases, resolve_base, resolve_config, resolve_switches
from cxr_mmdet.recipes import config_folder as config_folder
from cxr_mmdet.recipes import config_names as config_names
from cxr_mmdet.structures.coco import read_coco

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_KNOWN_KEYS = frozenset(inspect.signature(Runner.__init__).parameters) - {"self", "cfg"} | {
    "auto_scale_lr",
    "custom_imports",
    "find_unused_parameters",
    "log_level",
    "sync_bn",
    "val_share",
}
"""Top-level keys that mean something: what the Runner takes or looks up."""

_VARIABLES = {
    "train_pipeline": "train_dataloader.dataset.pipeline",
    "test_pipeline": "val_dataloader.dataset.pipeline and test_dataloader.dataset.pipeline",
    "vis_backends": "visualizer.vis_backends",
    **dict.fromkeys(
        ("load_steps", "test_load_steps", "resize_steps", "test_resize_steps", "augment_steps", "pack_steps"),
        "train_dataloader.dataset.pipeline",
    ),
}
"""Variables of the dataset bases, which nothing reads once the files are read, and the keys that hold their values."""

_DATA_PARTS = ("train_dataloader", "val_dataloader", "test_dataloader")
_EVALUATORS = ("val_evaluator", "test_evaluator")

_COST_OF_TRAINING = 1.5
"""Images that can be validated in the time in which one is trained on, at least: see docs/recipes.md."""
_LEAST_VALIDATED = 150
"""Images of a validation: with fewer, chance chooses the best checkpoint, and fewer validations are better."""

NO_WEIGHTS = "none"
_RANDOM_START = {"init_cfg": None, "frozen_stages": -1, "norm_eval": False}


def load_config(
    name: str,
    *,
    data_root: Path | None = None,
    labels: str | None = None,
    work_dir: Path | None = None,
    load_from: str | None = None,
    switches: Sequence[str] = (),
    cfg_options: Sequence[str] = (),
) -> Config:
    """Return the config ``name`` for its data, with switches and the user's options put in, in this order.

    Annotation files that the config leaves open (``ann_file=None``) are those of the prepared folder's only label set;
    classes and every ``num_classes`` follow from them. A config states its classes by a variable ``classes``.

    Args:
        name: a path or the name of a recipe.
        data_root: replaces every dataset's and evaluator's ``data_root``.
        labels: the label set of the prepared folder, such as ``14``, ``auto`` or ``fold2/14``; replaces whatever
            annotation files and classes the config states.
        work_dir: where the run writes; ``work_dirs/<config>`` if neither this nor the config says, and then
            ``work_dirs/<config>_<labels>+<switch>`` for what is another training.
        load_from: starting weights, a file, a URL or ``phantom``; ``none`` starts from random weights, and then lets
            the backbone's norms and first stage train, without which a random backbone stays random.
        switches: laid over the config, see :func:`~cxr_mmdet.engine.switches.lay_switches_over`.
        cfg_options: ``key=value`` as MMDetection's tools take them.

    Raises:
        ConfigError: no such config or switch, one that cannot be read, or a key that nothing would read.
        DatasetError: the prepared folder, or its label set, is not there.
        UsageError: the prepared folder holds several label sets, and none is chosen.
    """
    path = resolve_config(name)
    config = _read(path)
    options = _parse_options(cfg_options, config)
    _set_data(config, data_root or options.pop("data_root", None), labels, options.pop("classes", None))
    lay_switches_over(config, switches)
    config.merge_from_dict(options)
    for variable in _VARIABLES:
        config.pop(variable, None)
    unknown = sorted(set(config) - _KNOWN_KEYS)
    if unknown:
        raise ConfigError(f"{path}: nothing reads the key {', '.join(unknown)}; {_nearest(unknown[0], _KNOWN_KEYS)}")
    if work_dir is not None or config.get("work_dir") is None:
        training = path.stem if labels is None else f"{path.stem}_{labels.replace('/', '_')}"
        run = "+".join([training, *(switch.stem for switch in resolve_switches(switches))])
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


def limit_validation(config: Config) -> str | None:
    """Keep validation within ``val_share`` of a training's time, and return a sentence that says so if that took much.

    What it does depends on the numbers of images alone, so that it is the same on every machine and on resuming. First
    the images of each validation become fewer, then the validations. There is at least one.

    Args:
        config: checked; ``train_cfg.val_interval`` and the ``sample`` of dataset and metric are set in it. None for
            ``val_share``, or a ``sample`` of the user's own, leaves everything as it is.
    """
    share, loop, loader = (config.get(key) for key in ("val_share", "train_cfg", "val_dataloader"))
    if share is None or not loader or not loop or not loop.get("max_iters"):
        return None
    parts = annotated_parts([loader, config.get("val_evaluator")])
    if [part["type"] for part in parts] != ["CxrDataset", "CxrMetric"] or any("sample" in part for part in parts):
        return None
    images = len(read_coco(Path(parts[0].get("data_root") or "") / parts[0]["ann_file"])["images"])
    iterations, interval = loop["max_iters"], loop.get("val_interval", 1)
    affordable = int(share * _COST_OF_TRAINING * iterations * config.train_dataloader.batch_size)
    wanted = -(-iterations // interval)
    if wanted * images <= affordable:
        return None
    least = min(images, _LEAST_VALIDATED)
    interval *= -(-wanted // max(1, min(wanted, affordable // least)))
    validations = -(-iterations // interval)
    sample = max(least, min(images, affordable // validations))
    if (validations, sample) == (wanted, images):
        return None
    loop["val_interval"] = interval
    if sample < images:
        for part in parts:
            part["sample"] = sample
    return (
        f"Validation keeps to {share:.0%} of the time: {validations} of the config's {wanted} validations, on {sample} "
        f"of {counted(images, 'image')}. tools/test.py scores all; --cfg-options val_share=None lifts the limit."
    )


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
    counts = [(where, head["num_classes"]) for where, head in _classifiers(config.model, "model")]
    wrong = [(where, count) for where, count in counts if count != len(classes)]
    if wrong:
        where, count = wrong[0]
        options = " ".join(f"{place}.num_classes={len(classes)}" for place, _ in wrong)
        raise ConfigError(
            f"{where}.num_classes is {count}, the data hold {counted(len(classes), 'class')} ({', '.join(classes)}); "
            f"remove it from the config and from --cfg-options, or pass --cfg-options {options}."
        )


def class_names(config: Config) -> tuple[str, ...]:
    """Return the classes of a config; numbered ones for a recipe that takes them from data it has not seen."""
    (part,) = annotated_parts(config.test_dataloader)
    count = next(head["num_classes"] for _, head in _classifiers(config.model, "model"))
    stated = (part.get("metainfo") or {}).get("classes")
    return tuple(stated or (f"class {number}" for number in range(1, count + 1)))


def check_annotation_files(config: Config) -> None:
    """Check that every dataset and evaluator has its annotation file.

    Raises:
        DatasetError: a recipe that takes its classes from the prepared folder was read without one.
    """
    for part in annotated_parts([config.get(key) for key in (*_DATA_PARTS, *_EVALUATORS)]):
        if part["ann_file"] is None:
            raise DatasetError(
                f"{part.get('data_root')}: no such prepared folder; make one by tools/prepare_data.py build, and name "
                "it by --data-root."
            )


def annotated_parts(config: Any) -> list[dict[str, Any]]:
    """Return every dataset, however wrapped, and evaluator in a part of a config: what names an annotation file."""
    return list(_with_annotations(config))


def _set_data(config: Config, data_root: Path | str | None, labels: str | None, classes: Any) -> None:
    """Put the prepared folder, its annotation files and its classes into every part of a config that names them."""
    stated = config.pop("classes", None)
    config.pop("data_root", None)
    parts = {key: annotated_parts(config[key]) for key in (*_DATA_PARTS, *_EVALUATORS) if config.get(key)}
    for part in (part for each in parts.values() for part in each):
        if data_root is not None:
            part["data_root"] = str(data_root)
        if labels is not None:
            part["ann_file"] = None
    if labels is None and stated is not None:
        classes = stated if classes is None else classes
    for key, part in [(key, part) for key, each in parts.items() for part in each if part["ann_file"] is None]:
        root = Path(part.get("data_root") or "")
        if not root.is_dir() and data_root is None and labels is None:
            continue  # the recipe as such, of no data yet
        name = _choose_labels(root, labels)
        split = "train" if key == "train_dataloader" else "val"
        part["ann_file"] = _annotation_file(name, split).as_posix()
        if classes is None:
            files = [root / _annotation_file(name, each) for each in ("train", "val")]
            coco = read_coco(next(file for file in files if file.is_file()))
            classes = [category["name"] for category in coco["categories"]]
    if classes is None:
        return
    classes = _checked_classes(classes)
    for key in parts.keys() & set(_DATA_PARTS):
        for part in parts[key]:
            part["metainfo"] = {**(part.get("metainfo") or {}), "classes": classes}
    for _, head in _classifiers(config._cfg_dict.model, "model"):
        head["num_classes"] = len(classes)


def _checked_classes(classes: Any) -> tuple[str, ...]:
    names = tuple(classes) if isinstance(classes, (list, tuple)) else (classes,)
    if not names or not all(isinstance(name, str) and name for name in names) or len(set(names)) < len(names):
        raise ConfigError(f"classes is {classes!r}; give names that differ, as in classes=Nodule,Cardiomegaly.")
    return names


def _choose_labels(root: Path, labels: str | None) -> str:
    """Return the label set to take from a prepared folder: the one asked for, or the only one.

    Raises:
        DatasetError: the folder does not exist or is not a prepared one.
        UsageError: the label set does not exist, or there are several and none is asked for.
    """
    if not root.is_dir():
        raise DatasetError(
            f"{root}: no such prepared folder; make it by tools/prepare_data.py build, or correct --data-root."
        )
    if labels is not None and any((root / _annotation_file(labels, split)).is_file() for split in ("train", "val")):
        return labels
    found = {
        file.stem.partition("_")[2] for split in ("train", "val") for file in root.glob(f"annotations/{split}_*.json")
    }
    if not found:
        raise DatasetError(
            f"{root}: holds no annotations/train_<labels>.json, so it is not a prepared folder; make it by "
            "tools/prepare_data.py build, or correct --data-root."
        )
    names = ", ".join(sorted(found))
    if labels is not None:
        raise UsageError(f"{root}: has no label set {labels}, only {names}; pass one of these to --labels.")
    if len(found) > 1:
        raise UsageError(f"{root}: holds several label sets ({names}); choose one by --labels.")
    return names


def _annotation_file(labels: str, split: str) -> Path:
    """Return the place of a split in a prepared folder; ``fold2/14`` is the label set 14 of the second fold."""
    folder, name = Path(labels).parent, Path(labels).name
    return Path("annotations") / folder / f"{split}_{name}.json"


def _read(path: Path) -> Config:
    try:
        with tempfile.TemporaryDirectory() as folder:
            readable = _with_paths_as_bases(path, Path(folder))
            config = Config.fromfile(readable)
        # Runs are named after the user's file.
        return config if readable == path else Config(config.to_dict(), filename=str(path))
    except ConfigError:
        raise
    except Exception as error:  # a config is a program: anything can happen in it
        raise ConfigError(f"{path}: cannot be read as a config: {type(error).__name__}: {error}") from error


def _with_paths_as_bases(path: Path, folder: Path) -> Path:
    """Return a config that mmengine can read: ``path``, or a copy in ``folder`` whose bases are paths, not names.

    mmengine's own ``package::`` names are for installed packages with a model index, and set another scope.
    """
    if path.suffix != ".py" or path.resolve().is_relative_to(config_folder().resolve()):
        return path
    text = path.read_text(encoding="utf-8")
    copied = False

    def as_path(name: str) -> str:
        nonlocal copied
        base = resolve_base(name, path.parent)
        if name.startswith(BY_NAME):
            copied = True
        elif Path(base).is_file():
            readable = _with_paths_as_bases(Path(base), Path(tempfile.mkdtemp(dir=folder)))
            copied |= readable != Path(base)
            base = str(readable)
        elif "::" not in name and Path(name).stem in config_names():
            raise ConfigError(f'{path}: no such base {name}; inherit the recipe by _base_ = "cxr::{Path(name).stem}".')
        return base

    renamed = rename_bases(text, as_path)
    if not copied:
        return path
    (folder / path.name).write_text(renamed, encoding="utf-8")
    return folder / path.name


def _parse_options(options: Sequence[str], config: Config) -> dict[str, Any]:
    parsed = {}
    for option in options:
        key, equals, value = option.partition("=")
        if not equals or not key:
            raise ConfigError(f"--cfg-options {option}: is not of the form key=value, as in train_cfg.max_iters=500.")
        first = key.split(".", 1)[0]
        if first in _VARIABLES:
            raise ConfigError(f"--cfg-options {option}: nothing reads {first} any more; set {_VARIABLES[first]}.")
        known = set(config) | _KNOWN_KEYS | {"classes", "data_root"}
        if key != first and first in ("classes", "data_root"):
            raise ConfigError(f"--cfg-options {option}: {first} has no parts; set all of it as {first}=….")
        if first not in known:
            raise ConfigError(f"--cfg-options {option}: nothing reads the key {first}; {_nearest(first, known)}")
        try:
            parsed[key] = _parse_value(value)
        except AssertionError:  # DictAction's way of saying so
            raise ConfigError(f"--cfg-options {option}: its brackets do not match; close each one.") from None
    return parsed


def _parse_value(text: str) -> Any:
    """Parse a value as MMDetection's tools do, but keep the blanks within names, which mmengine removes."""
    blank = "\x1f"
    within_names = r"(?<=[^\s,\[(]) (?=[^\s,\])])"
    return _replace_text(DictAction._parse_iterable(re.sub(within_names, blank, text)), blank, " ")


def _replace_text(value: Any, old: str, new: str) -> Any:
    if isinstance(value, (list, tuple)):
        return type(value)(_replace_text(part, old, new) for part in value)
    return value.replace(old, new) if isinstance(value, str) else value


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


def _classifiers(config: Any, where: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the parts of a model that have a number of classes, with their places."""
    if isinstance(config, dict):
        if "num_classes" in config:
            yield where, config
        for key, value in config.items():
            yield from _classifiers(value, f"{where}.{key}")
    elif isinstance(config, (list, tuple)):
        for index, value in enumerate(config):
            yield from _classifiers(value, f"{where}.{index}")
