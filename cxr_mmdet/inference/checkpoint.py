"""A training checkpoint → its detector, without running what a stranger may have put into the file."""

from __future__ import annotations

import copy
import logging
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from mmdet.registry import MODELS, TASK_UTILS
from mmengine.config import Config, ConfigDict
from mmengine.logging import MMLogger
from mmengine.registry import init_default_scope
from mmengine.utils import import_modules_from_strings

import cxr_mmdet.models.data_preprocessor  # noqa: F401 (registers our preprocessor)
from cxr_mmdet.engine.checkpoint_file import TRUST, read_checkpoint_file
from cxr_mmdet.engine.pretrained import compare_weights
from cxr_mmdet.engine.running import find_checkpoint
from cxr_mmdet.errors import CheckpointError, counted, first_line
from cxr_mmdet.inference.bundle import sha256_of
from cxr_mmdet.inference.export.model_card import summarise
from cxr_mmdet.inference.safe_config import parse_config

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from mmdet.models.detectors.base import BaseDetector

_OWN_IMPORTS = ("cxr_mmdet.", "mmdet.")
_DATE = re.compile(r"_\d{8}_\d{6}$")


@dataclass(frozen=True)
class TrainedDetector:
    """A detector in evaluation mode and what came with it.

    Attributes:
        model: on the CPU.
        config: it was trained with.
        class_names: in the order of its outputs.
        name: of the config.
        sha256: of the file.
        summary: of the training, as plain values.
    """

    model: BaseDetector
    config: Config
    class_names: tuple[str, ...]
    name: str
    sha256: str
    summary: dict[str, Any]

    @property
    def model_id(self) -> str:
        """Names the config and the weights."""
        return f"{self.name}-{self.sha256[:12]}"


def load_detector(name: str, *, trust: bool = False) -> TrainedDetector:
    """Return the detector of a checkpoint that mmengine wrote.

    Args:
        name: the file, or a run's folder, which stands for its best checkpoint.
        trust: unpickle whatever the file holds and import what its config names.

    Raises:
        CheckpointError: it is missing, damaged, not a training checkpoint, would run code while loading, or its
            weights are not those of its config.
    """
    path = find_checkpoint(name)
    checkpoint = read_checkpoint(path, trust=trust)
    config = _config(path, checkpoint, trust=trust)
    class_names = _class_names(path, checkpoint)
    model = build_detector(path, config, checkpoint["state_dict"])
    require_labels(path, model, class_names)
    meta = checkpoint["meta"]
    experiment = meta.get("experiment_name")
    return TrainedDetector(
        model=model,
        config=config,
        class_names=class_names,
        name=_DATE.sub("", experiment) if _is_name(experiment) else path.stem,
        sha256=sha256_of(path),
        summary=summarise(meta, config),
    )


def read_checkpoint(path: Path, *, trust: bool = False) -> dict[str, Any]:
    """Return the content of a checkpoint of training, with its weights and its config.

    Raises:
        CheckpointError: see :func:`load_detector`.
    """
    checkpoint = read_checkpoint_file(path, trust=trust)
    if not _are_weights(checkpoint.get("state_dict")):
        raise CheckpointError(f"{path}: holds no model weights (no 'state_dict'); give a checkpoint of tools/train.py.")
    if not isinstance(checkpoint.get("meta"), dict) or not isinstance(checkpoint["meta"].get("cfg"), str):
        raise CheckpointError(
            f"{path}: holds weights but not the config they belong to; give a checkpoint of tools/train.py, which does."
        )
    return checkpoint


def _are_weights(state: Any) -> bool:
    return isinstance(state, dict) and bool(state) and all(isinstance(part, torch.Tensor) for part in state.values())


def _config(path: Path, checkpoint: dict[str, Any], *, trust: bool) -> Config:
    text = checkpoint["meta"]["cfg"]
    try:
        values = parse_config(text)
        if not isinstance(values.get("model"), dict):
            raise ValueError("it names no model")
        config = Config(ConfigDict(values))
    except ValueError as error:
        if not trust:
            raise CheckpointError(
                f"{path}: its config is not plain data ({error}), so it is not run; if you know who made it, pass "
                f"{TRUST}."
            ) from None
        config = Config.fromstring(text, ".py")
    register_types(path, config, trust=trust)
    return config


def register_types(path: Path, config: Config, *, trust: bool) -> None:
    """Import what the config's types need, and unless trusted nothing else."""
    init_default_scope("mmdet")
    modules = (config.get("custom_imports") or {}).get("imports") or []
    modules = [modules] if isinstance(modules, str) else modules
    foreign = [module for module in modules if not module.startswith(_OWN_IMPORTS)]
    if foreign and not trust:
        raise CheckpointError(
            f"{path}: its config imports {', '.join(foreign)}, which is not ours; if you know who made it, pass "
            f"{TRUST}."
        )
    import_modules_from_strings(modules)
    if trust:
        return
    if "teacher_config" in config.model:
        raise CheckpointError(
            f"{path}: its model names a config of a teacher, which mmdet would run; if you know who made it, pass "
            f"{TRUST}."
        )
    for kind in _types(config.model):
        # mmengine takes the dotted path of any function as a type.
        if not isinstance(kind, str) or not (_is_registered(kind) or _is_layer(kind)):
            raise CheckpointError(
                f"{path}: its model asks for {kind!r}, which is not part of mmdet; if you know who made it, pass "
                f"{TRUST}."
            )


def _is_registered(kind: str) -> bool:
    scope, _, name = kind.rpartition(".")
    if scope not in ("", "mmdet", "mmengine", "mmcv"):
        return False
    registries = [MODELS, TASK_UTILS]
    while registries:
        registry = registries.pop()
        if name in registry.module_dict:
            return True
        if registry.parent is not None:
            registries.append(registry.parent)
    return False


def _is_layer(kind: str) -> bool:
    """Return whether ``kind`` is one of the plain names that mmcv looks up itself, such as nms and RoIAlign."""
    import mmcv.ops

    return kind in {"nms", "soft_nms"} or (kind.isidentifier() and isinstance(getattr(mmcv.ops, kind, None), type))


def _types(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        for key, part in value.items():
            if key == "type":
                yield part
            else:
                yield from _types(part)
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _types(part)


def _class_names(path: Path, checkpoint: dict[str, Any]) -> tuple[str, ...]:
    dataset = checkpoint["meta"].get("dataset_meta") or {}
    names = dataset.get("classes") or dataset.get("CLASSES") if isinstance(dataset, dict) else None
    if not isinstance(names, (list, tuple)) or not names or not all(map(_is_name, names)):
        raise CheckpointError(
            f"{path}: does not say which classes it detects (meta.dataset_meta.classes); train again."
        )
    return tuple(names)


def _is_name(value: Any) -> bool:
    """Return whether a value may be shown as a name, in a terminal too."""
    return isinstance(value, str) and bool(value.strip()) and value.isprintable()


def require_labels(path: Path, model: BaseDetector, class_names: Sequence[str]) -> None:
    """Check that there is a label for each class that the detector scores.

    Raises:
        CheckpointError: there are fewer or more.
    """
    head = getattr(model, "roi_head", None) or model
    head = getattr(head, "bbox_head", None)
    head = head[-1] if isinstance(head, torch.nn.ModuleList) else head
    count = getattr(head, "num_classes", len(class_names))
    if count != len(class_names):
        raise CheckpointError(
            f"{path}: names {counted(len(class_names), 'class')}, its network scores {count}; the file was "
            "put together by hand."
        )


def build_detector(path: Path, config: Config, weights: dict[str, torch.Tensor]) -> BaseDetector:
    """Return the model of a config, in evaluation mode, with these weights.

    Raises:
        CheckpointError: it cannot be built, or the weights are not its own.
    """
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        # A copy: some detectors (DINO) note in their config what they refuse to find there another time.
        model = MODELS.build(copy.deepcopy(config.model))
    except Exception as error:  # a config of another version can fail anywhere in mmdet
        reason = first_line(error)
        raise CheckpointError(f"{path}: the model of its config cannot be built ({reason}).") from error
    finally:
        logger.setLevel(level)
    own = model.state_dict()
    weights = {name.removeprefix("module."): value for name, value in weights.items()}
    report = compare_weights(own, weights)
    if report.missing or report.other_shape or report.unexpected:
        raise CheckpointError(
            f"{path}: its weights are not those of the model its config describes ({len(report.missing)} missing, "
            f"{len(report.unexpected)} unexpected, {len(report.other_shape)} of another shape); it belongs to another "
            "architecture or was put together by hand."
        )
    model.load_state_dict(weights, strict=False)
    return model.eval()
