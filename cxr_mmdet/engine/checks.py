"""Checks before the first iteration of a run: a sentence then, not a traceback or a surprise later.

:func:`check_numbers` looks at a config before anything is built of it, :func:`check_training` at what was built.
"""

from __future__ import annotations

import difflib
import math
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from mmdet.registry import OPTIMIZERS, PARAM_SCHEDULERS
from mmengine.hooks import CheckpointHook

from cxr_mmdet.datasets.loading import read_size, require_size
from cxr_mmdet.datasets.transforms import LoadGreyImage
from cxr_mmdet.datasets.votes import READERS_KEY, LoadVotedAnnotations, share_of
from cxr_mmdet.engine.config import check_class_counts
from cxr_mmdet.engine.gate_data import prepare_gate
from cxr_mmdet.engine.metrics import CxrMetric
from cxr_mmdet.errors import ConfigError, DatasetError, counted
from cxr_mmdet.models.partial_labels import mask_unknown_classes
from cxr_mmdet.models.regions import leave_regions_out
from cxr_mmdet.models.vote_weights import weighs_corners, weighs_votes
from cxr_mmdet.structures.coverage import COVERAGE_KEY, Coverage

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mmengine.config import Config
    from mmengine.registry import Registry
    from mmengine.runner import Runner
    from torch import nn

_LOADERS = ("train_dataloader", "val_dataloader", "test_dataloader")
_LEAST_WHOLE_NUMBERS = {
    "train_cfg.max_iters": 1,
    "train_cfg.max_epochs": 1,
    "train_cfg.val_interval": 1,
    "default_hooks.checkpoint.interval": 1,
    "optim_wrapper.accumulative_counts": 1,
    **{f"{loader}.batch_size": 1 for loader in _LOADERS},
    **{f"{loader}.num_workers": 0 for loader in _LOADERS},
}
_NUMBERS_FROM_ZERO = {
    "optim_wrapper.optimizer.lr": "a learning rate such as 0.001",
    "optim_wrapper.clip_grad.max_norm": "a gradient norm such as 35",
}
_READING_THREADS = 16
_LEAST_KNOWN = 0.1
_WITHOUT = "train without votes (no VoteWeighted… type in the config)"


def check_numbers(config: Config) -> None:
    """Check the numbers that every run needs.

    Raises:
        ConfigError: one is no number, or too small.
    """
    for key, least in _LEAST_WHOLE_NUMBERS.items():
        value = _look_up(config, key)
        if value is None:
            continue
        if (
            isinstance(value, bool) or not isinstance(value, (int, float)) or value % 1 or value < least
        ):  # NaN % 1 is NaN
            raise ConfigError(
                f"{key} is {value}, expected a whole number of at least {least}; correct it in the config, or pass "
                f"--cfg-options {key}=NUMBER."
            )
    for key, expected in _NUMBERS_FROM_ZERO.items():
        value = _look_up(config, key)
        if value is not None and not (isinstance(value, (int, float)) and 0 <= value < math.inf):
            raise ConfigError(
                f"{key} is {value}, expected {expected}; correct it in the config, or pass --cfg-options {key}=NUMBER."
            )


def check_types(config: Config) -> None:
    """Check that the optimizer and the schedules of the learning rate are of known types.

    mmengine answers an unknown optimizer by "None is not a callable object", and a schedule by a list of types.

    Raises:
        ConfigError: an unknown type.
    """
    schedules = config.get("param_scheduler") or []
    schedules = [schedules] if isinstance(schedules, dict) else schedules
    named = [("optim_wrapper.optimizer", _look_up(config, "optim_wrapper.optimizer"), OPTIMIZERS)]
    named += [(f"param_scheduler[{place}]", each, PARAM_SCHEDULERS) for place, each in enumerate(schedules)]
    for key, part, registry in named:
        if part is not None and not isinstance(part, dict):
            raise ConfigError(f"{key} is {part!r}, expected a dict with a type; write it in a config file.")
        kind = (part or {}).get("type")
        if isinstance(kind, str) and registry.get(kind) is None:
            registry.import_from_location()
            near = difflib.get_close_matches(kind, sorted(_known_types(registry)), n=1, cutoff=0.0)[0]
            raise ConfigError(f"{key}.type is {kind}, there is no such type; did you mean {near}?")


def _known_types(registry: Registry) -> set[str]:
    own = set(registry.module_dict)
    return own | _known_types(registry.parent) if registry.parent else own


def check_training(runner: Runner) -> None:
    """Check that model, data and metric of a training fit each other, and prepare an abnormality gate for the data.

    Raises:
        ConfigError: the config contradicts itself or the data.
        DatasetError: the data cannot be trained on or validated with.
    """
    loader = runner.train_dataloader
    check_class_counts(runner.cfg, loader.dataset.metainfo["classes"])
    check_votes(runner.model, loader.dataset)
    heed_regions(runner.model, loader.dataset)
    if note := heed_coverage(runner.model, loader.dataset):
        runner.logger.info(note)
    plan = getattr(loader.sampler, "plan", None)
    prepare_gate(runner.model, loader.dataset, None if plan is None else plan.normal_share)
    check_boxes(loader.dataset)
    if runner.val_loop is not None:
        check_best(runner)
        check_images(runner.val_dataloader.dataset)
    check_images(loader.dataset)


def check_boxes(dataset: Any) -> None:
    """Check that a training set, however wrapped, holds a box at all.

    Raises:
        DatasetError: it holds none.
    """
    parts = [part for part in innermost(dataset) if hasattr(part, "get_data_info")]
    instances = (each for part in parts for index in range(len(part)) for each in _instances(part, index))
    if parts and not any(not instance.get("ignore_flag", 0) for instance in instances):
        raise DatasetError(
            f"{parts[0].ann_file}: none of its {sum(map(len, parts))} images holds a box, so that there is nothing to "
            "learn; prepare the data with labels that occur in its table, or correct --data-root."
        )


def check_best(runner: Runner) -> None:
    """Check that the validation split defines the scores that pick the best checkpoint.

    Raises:
        ConfigError: no such score.
        DatasetError: the split leaves it undefined, as where it holds no box.
    """
    metrics = runner.val_evaluator.metrics
    hook = next((hook for hook in runner.hooks if isinstance(hook, CheckpointHook)), None)
    wanted = [name for name in (hook and hook.save_best) or [] if name != "auto"]
    if not wanted or not all(isinstance(metric, CxrMetric) for metric in metrics):
        return
    known, defined = (set().union(*names) for names in zip(*(metric.score_names() for metric in metrics), strict=True))
    key = "default_hooks.checkpoint.save_best"
    for name in wanted:
        if name not in known:
            near = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.0)[0]
            raise ConfigError(f"{key} is {name}, no score of that name is computed; did you mean {near}?")
        if name not in defined:
            truth = metrics[0].ground_truth
            class_name = name.partition("/")[2].partition("/")[2]
            boxes = [each for each in truth["annotations"] if not each.get("iscrowd", 0)]
            lacks = "box" if not boxes else f"box of {class_name}" if class_name else "such images"
            raise DatasetError(
                f"{metrics[0].ann_path}: holds no {lacks}, so that {name}, which picks the best checkpoint, is "
                f"undefined; prepare the data with another --val-ratio, or pass --cfg-options {key}=None, or another "
                "score there."
            )


def check_images(dataset: Any) -> None:
    """Check that prepared images have the size of their COCO entries, by the head of each file.

    Raises:
        DatasetError: one has not, or is no image.
    """

    def check(entry: dict[str, Any]) -> None:
        require_size(entry["img_path"], read_size(entry["img_path"]), (entry["height"], entry["width"]))

    for part in innermost(dataset):
        steps = getattr(getattr(part, "pipeline", None), "transforms", [])
        if any(isinstance(step, LoadGreyImage) for step in steps):
            with ThreadPoolExecutor(_READING_THREADS) as threads:
                list(threads.map(check, [part.get_data_info(index) for index in range(len(part))]))


def check_votes(model: nn.Module, dataset: Any) -> None:
    """Check that a model which weighs reader votes gets votes worth weighing; any other model may have any data.

    Args:
        model: the detector to be trained.
        dataset: the training set, however wrapped.

    Raises:
        ConfigError: the pipeline does not load votes.
        DatasetError: the COCO file does not name the readers, all boxes have the same share of votes, or corners are to
            be weighed and it does not state how uncertain they are.
    """
    if not weighs_votes(model):
        return
    shares: set[float] = set()
    parts = list(innermost(dataset))
    for part in parts:
        if not any(isinstance(step, LoadVotedAnnotations) for step in part.pipeline.transforms):
            raise ConfigError(
                "the config weighs reader votes, but its training pipeline loads none; put LoadVotedAnnotations in the "
                f"place of LoadAnnotations, or {_WITHOUT}."
            )
        shares |= _shares_of_votes(part)
    if len(shares) == 1:
        (share,) = shares
        why = "as where one reader read each image" if share == 1 else "as where readers are not fused"
        raise DatasetError(
            f"{parts[0].ann_file}: all boxes have the same share of votes ({share:.2g}), {why}, so that weighing them "
            f"changes nothing; prepare a table in which several readers drew boxes, fusing them, or {_WITHOUT}."
        )
    boxes = [box for part in parts for index in range(len(part)) for box in _instances(part, index)]
    if weighs_corners(model) and boxes and not any("corner_weight" in box for box in boxes):
        raise DatasetError(
            f"{parts[0].ann_file}: states no corner_spread, so that weighing by it changes nothing; write it again "
            "with tools/prepare_data.py build --force --fusion readers, or train --with readers in place of corners."
        )


def heed_regions(model: nn.Module, dataset: Any) -> None:
    """Let a detector leave out the regions (``iscrowd``) of its training data; without regions it stays as it is.

    Args:
        model: the detector to be trained.
        dataset: the training set, however wrapped.

    Raises:
        ConfigError: there are regions, and the detector would learn them as background.
    """
    for part in innermost(dataset):
        entries = [part.get_data_info(index) for index in range(len(part))]
        count = sum(instance["ignore_flag"] for entry in entries for instance in entry["instances"])
        if count and not leave_regions_out(model):
            raise ConfigError(
                f"{part.ann_file}: holds regions to ignore (iscrowd 1, {count} of them), which this detector would "
                "learn as background; train a RetinaNet, GFL, ATSS, VFNet, Faster R-CNN or Cascade R-CNN, or take the "
                "regions out of the table."
            )


def heed_coverage(model: nn.Module, dataset: Any) -> str | None:
    """Let a detector leave out what was not looked for in its training data, and return a sentence that says so.

    An RPN learns background from fully known images alone if these are at least a tenth of all. With fewer it would
    learn hardly any and propose everything; then it learns from all images, of which it samples few places each.

    Args:
        model: the detector to be trained.
        dataset: the training set, however wrapped.

    Returns:
        None where all images were looked through for all classes; the detector then trains as it would otherwise.

    Raises:
        ConfigError: the detector would learn unknown classes as absent.
    """
    rows = [
        (part.ann_file, part.get_data_info(index).get(COVERAGE_KEY))
        for part in innermost(dataset)
        for index in range(len(part))
    ]
    if all(row is None for _, row in rows):
        return None
    partly = [file for file, row in rows if row is not None and bool((row < Coverage.EXHAUSTIVE).any())]
    rpn = len(rows) - len(partly) >= _LEAST_KNOWN * len(rows)
    if not mask_unknown_classes(model, rpn=rpn) and partly:
        raise ConfigError(
            f"{partly[0]}: is partly labelled, and this detector would learn what nobody looked for as absent; "
            "train a RetinaNet, GFL, ATSS, VFNet, RTMDet, DINO, Faster R-CNN or Cascade R-CNN, or give --with "
            "unknown_as_absent."
        )
    if not partly:
        return None
    background = (
        ""
        if rpn or not any(name.endswith("rpn_head") for name, _ in model.named_modules())
        else " Its RPN learns background from all images."
    )
    return (
        f"{partly[0]}: {len(partly)} of {counted(len(rows), 'image')} were not looked through for "
        "all classes; classes that were not looked for neither reward nor punish the detector (--with "
        f"unknown_as_absent takes them for absent).{background}"
    )


def innermost(dataset: Any) -> Iterator[Any]:
    """Yield the datasets that read annotation files, within whatever repeats, copies or joins them."""
    inner = getattr(dataset, "datasets", None) or [each for each in [getattr(dataset, "dataset", None)] if each]
    if not inner:
        yield dataset
    for each in inner:
        yield from innermost(each)


def _shares_of_votes(dataset: Any) -> set[float]:
    entries = [dataset.get_data_info(index) for index in range(len(dataset))]
    if any(READERS_KEY not in entry for entry in entries):
        raise DatasetError(
            f"{dataset.ann_file}: does not name the readers of every image, so the share of votes is unknown; write "
            "it again with tools/prepare_data.py build --force, which keeps the images that it has already made, or "
            f"{_WITHOUT}."
        )
    return {
        share_of(instance, entry) for entry in entries for instance in entry["instances"] if not instance["ignore_flag"]
    }


def _instances(dataset: Any, index: int) -> list[dict[str, Any]]:
    instances: list[dict[str, Any]] = dataset.get_data_info(index).get("instances", [])
    return instances


def _look_up(config: Any, key: str) -> Any:
    for part in key.split("."):
        config = config.get(part) if isinstance(config, dict) or hasattr(config, "get") else None
    return config
