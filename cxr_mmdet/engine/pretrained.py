"""Starting weights: what of a checkpoint fits the model, said out loud, and moved where our neck counts differently."""

from __future__ import annotations

import io
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from mmdet.registry import HOOKS
from mmengine.hooks import EMAHook, Hook
from mmengine.model import is_model_wrapper
from rich.console import Console
from rich.table import Table

from cxr_mmdet.errors import CheckpointError
from cxr_mmdet.structures.labels import shared_classes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import torch
    from mmengine.runner import Runner

_FPN_LEVEL = re.compile(r"^(neck\.(?:lateral|fpn)_convs\.)(\d+)(\..+)$")
_CLASSIFIER = re.compile(r"(?:^|\.)(?!rpn_)(\w+_cls|cls_branches|fc_reg)(?:\.\d+)*\.(?:weight|bias)$")
_NAMES_SHOWN = 4
_BACKBONE = "backbone."
_SAME_BACKBONE = 0.75
"""Part of two backbones' kernels that must be in both with one shape. Of a ResNet-50's file 129 tensors fit into a
ResNet-18 detector of 156, by accident: of the backbones' 53 kernels, 9 do."""


@dataclass(frozen=True)
class LoadingReport:
    """Parameters of a model that a checkpoint provides.

    Attributes:
        matched: names with the same shape on both sides.
        other_shape: names on both sides whose shapes differ; as a rule the heads of another number of classes.
        missing: names of the model that the checkpoint lacks.
        unexpected: names of the checkpoint that the model lacks.
        by_class: names of classifiers of which the classes with common names are taken, and no others.
        classes: common names.
        other_classes: names of classifiers with the same shape on both sides, and no class in common.
    """

    matched: tuple[str, ...]
    other_shape: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    by_class: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    other_classes: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Return a table: how many of each kind, and the first names; of classifiers the classes taken over."""
        table = Table(box=None, pad_edge=False, header_style="")
        table.add_column("", no_wrap=True)
        table.add_column("tensors", justify="right", no_wrap=True)
        table.add_column("first names", overflow="ellipsis", no_wrap=True, max_width=100)
        for kind, names in {
            "matched": self.matched,
            "skipped, other shape": self.other_shape,
            "missing in the file": self.missing,
            "unexpected, not in the model": self.unexpected,
        }.items():
            table.add_row(kind, str(len(names)), _first(names))
        if self.other_classes:
            table.add_row("skipped, other classes", str(len(self.other_classes)), _first(self.other_classes))
        if self.by_class:
            table.add_row("taken over by class", str(len(self.by_class)), ", ".join(self.classes))
        text = io.StringIO()
        Console(file=text, width=150, color_system=None).print(table)
        return "\n".join(line.rstrip() for line in text.getvalue().splitlines())


def compare_weights(model: Mapping[str, torch.Tensor], checkpoint: Mapping[str, torch.Tensor]) -> LoadingReport:
    """Return what loading ``checkpoint`` into a model with the state ``model`` would do."""
    common = [name for name in model if name in checkpoint]
    counters = "num_batches_tracked"  # absent from old checkpoints, and of no effect
    return LoadingReport(
        matched=tuple(name for name in common if model[name].shape == checkpoint[name].shape),
        other_shape=tuple(name for name in common if model[name].shape != checkpoint[name].shape),
        missing=tuple(name for name in model if name not in checkpoint and not name.endswith(counters)),
        unexpected=tuple(name for name in checkpoint if name not in model),
    )


def fit_fpn_levels(model: Mapping[str, torch.Tensor], checkpoint: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return ``checkpoint`` with the neck's levels numbered as in ``model``.

    A stock Faster R-CNN's FPN starts at res2, ours at res3: level 1 there is level 0 here. The shift is found by the
    lateral convolutions' input channels (256, 512, 1024, 2048 for a ResNet-50); a neck that fits is left alone.
    """

    def inputs(state: Mapping[str, torch.Tensor]) -> list[int]:
        return [state[name].shape[1] for name in _lateral_names(state)]

    wanted, given = inputs(model), inputs(checkpoint)
    shift = len(given) - len(wanted)
    if shift <= 0 or given[shift:] != wanted:
        return checkpoint
    shifted = {}
    for name, value in checkpoint.items():
        match = _FPN_LEVEL.match(name)
        if match is None:
            shifted[name] = value
        elif int(match[2]) >= shift:
            shifted[f"{match[1]}{int(match[2]) - shift}{match[3]}"] = value
    return shifted


def fit_bare_backbone(
    model: Mapping[str, torch.Tensor], checkpoint: dict[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Return ``checkpoint`` with names as in ``model``, should it be a backbone by itself, such as torchvision's."""
    named = {_BACKBONE + name: value for name, value in checkpoint.items()}
    return named if named.keys() & model.keys() and not checkpoint.keys() & model.keys() else checkpoint


def fit_classes(
    model: Mapping[str, torch.Tensor],
    checkpoint: Mapping[str, torch.Tensor],
    own_classes: Sequence[str],
    given_classes: Sequence[str],
) -> dict[str, torch.Tensor]:
    """Return the classifiers of ``model`` with what ``checkpoint`` knows of the :func:`shared_classes`.

    Dense heads count anchor by anchor, class by class; a RoI head's ``fc_cls`` ends with the background, and its
    ``fc_reg`` has four values per class. Other classes keep the values of ``model``.
    """
    shared = shared_classes(own_classes, given_classes)
    fitted = {}
    for name, own in model.items():
        match = _CLASSIFIER.search(name)
        if not (match and name in checkpoint and own.shape[1:] == checkpoint[name].shape[1:]):
            continue
        own, given = own.clone(), checkpoint[name].to(own)
        background = int(match[1] == "fc_cls")
        try:
            to, of = (
                _per_class(tensor[: len(tensor) - background], len(classes), match[1] == "fc_reg")
                for tensor, classes in ((own, own_classes), (given, given_classes))
            )
            for into, source in shared:
                to[into] = of[source]
        except RuntimeError:  # another number of anchors, or no row per class
            continue
        if shared:
            own[len(own) - background :] = given[len(given) - background :]
        fitted[name] = own
    return fitted


def _per_class(values: torch.Tensor, classes: int, class_first: bool) -> torch.Tensor:
    """Return a view of a classifier's rows whose first axis is the class."""
    if class_first:  # a regressor that all classes share has four rows, and no view
        return values.view(classes, 4, *values.shape[1:])
    return values.view(-1, classes, *values.shape[1:]).transpose(0, 1)


def common_kernels(model: Mapping[str, torch.Tensor], checkpoint: Mapping[str, torch.Tensor]) -> tuple[int, int]:
    """Return how many kernels of the two backbones are in both with one shape, and how many there are in all.

    Norms and biases do not count: their shapes tell little about an architecture.
    """
    own, given = (
        {name for name, value in state.items() if name.startswith(_BACKBONE) and value.ndim > 1}
        for state in (model, checkpoint)
    )
    return sum(model[name].shape == checkpoint[name].shape for name in own & given), len(own | given)


@HOOKS.register_module()
class PretrainedReportHook(Hook):
    """Fit a checkpoint to the model before it is loaded, log what fits, and stop when nothing does.

    While resuming or testing the checkpoint must fit completely: anything else is another model's checkpoint.

    Raises:
        CheckpointError: nothing matches, or (resuming, testing) something does not.
    """

    priority = "VERY_HIGH"

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Change ``checkpoint['state_dict']`` in place."""
        own = (runner.model.module if is_model_wrapper(runner.model) else runner.model).state_dict()
        weights = _state_of(checkpoint, runner._load_from)
        if runner._resume or runner._train_loop is None:
            fitted = weights
            report = compare_weights(own, fitted)
            _require_all(report, runner._load_from)
            _require_classes(runner, checkpoint)
            _require_average(runner, checkpoint)
        else:
            fitted = fit_fpn_levels(own, fit_bare_backbone(own, weights))
            report = compare_weights(own, fitted)
            _require_architecture(report, own, fitted, runner._load_from)
            report, fitted = _with_classes(runner, checkpoint, own, fitted, report)
            share = sum(own[name].numel() for name in report.matched) / sum(value.numel() for value in own.values())
            runner.logger.info(f"Starting weights {runner._load_from}: {share:.1%} of the model's values\n{report}")
        # Complete, with the model's own values where the file has none that fit: mmengine and each hook that loads it
        # would report once more what the table above says.
        checkpoint["state_dict"] = {**own, **{name: fitted[name] for name in (*report.matched, *report.by_class)}}


def _with_classes(
    runner: Runner,
    checkpoint: dict[str, Any],
    own: Mapping[str, torch.Tensor],
    fitted: dict[str, torch.Tensor],
    report: LoadingReport,
) -> tuple[LoadingReport, dict[str, torch.Tensor]]:
    """Take classes over by name where the file and the data name theirs, and differ."""
    given = _named_classes(checkpoint)
    if not given:
        return report, fitted
    wanted = list(runner.train_dataloader.dataset.metainfo["classes"])
    if given == wanted:
        return report, fitted
    by_class = fit_classes(own, fitted, wanted, given)
    matched, other_shape = (
        tuple(name for name in names if name not in by_class) for names in (report.matched, report.other_shape)
    )
    shared = tuple(wanted[place] for place, _ in shared_classes(wanted, given))
    if not shared:  # rows learned for other classes stay out, though they have the shape
        other_classes = tuple(name for name in report.matched if name in by_class)
        return replace(report, matched=matched, other_classes=other_classes), fitted
    report = replace(report, matched=matched, other_shape=other_shape, by_class=tuple(by_class), classes=shared)
    return report, fitted | by_class


def _named_classes(checkpoint: Mapping[str, Any]) -> list[str]:
    """Return the classes that a checkpoint names, in the order of its network's outputs; none of a stranger's file."""
    meta = checkpoint.get("meta")
    known = meta.get("dataset_meta") if isinstance(meta, dict) else None
    given = known.get("classes") if isinstance(known, dict) else None
    given = [given] if isinstance(given, str) else given  # metainfo=dict(classes=("Nodule")), a tuple meant
    if isinstance(given, (list, tuple)) and all(isinstance(name, str) for name in given):
        return list(given)
    return []


def _require_classes(runner: Runner, checkpoint: Mapping[str, Any]) -> None:
    """Refuse data whose classes are others, or in another order: each output would count as another finding."""
    given = _named_classes(checkpoint)
    if not given:
        return
    loader = runner.train_dataloader if runner._resume else runner.test_dataloader
    wanted = list(loader.dataset.metainfo["classes"])
    if shared_classes(wanted, given) != [(place, place) for place in range(len(wanted))]:
        remedy = (
            "start another training from its weights by --load-from, which takes classes over by name"
            if runner._resume
            else "score what tools/predict.py --coco finds by tools/evaluate.py, which go by name"
        )
        raise CheckpointError(
            f"{runner._load_from}: was trained on the classes {', '.join(given)}, the data hold {', '.join(wanted)}, "
            f"and the order counts; choose the label set that it was trained on by --labels, or {remedy}."
        )


def _state_of(checkpoint: dict[str, Any], source: str | None) -> dict[str, Any]:
    weights = checkpoint.get("state_dict", checkpoint)
    if not weights or not all(hasattr(value, "shape") for value in weights.values()):
        raise CheckpointError(f"{source}: holds no model weights (no 'state_dict'); give a checkpoint of training.")
    return {name.removeprefix("module."): value for name, value in weights.items()}


def _require_architecture(
    report: LoadingReport,
    model: Mapping[str, torch.Tensor],
    checkpoint: Mapping[str, torch.Tensor],
    source: str | None,
) -> None:
    remedy = "Start from a checkpoint of this config's, or from --load-from none."
    if not report.matched:
        raise CheckpointError(
            f"{source}: none of its {len(checkpoint)} parameters fits the model; it belongs to another architecture. "
            + remedy
        )
    common, kernels = common_kernels(model, checkpoint)
    if common < _SAME_BACKBONE * kernels:
        raise CheckpointError(
            f"{source}: belongs to another architecture; its backbone and the model's have {common} of {kernels} "
            f"kernels in common. {remedy}"
        )


def _require_average(runner: Runner, checkpoint: dict[str, Any]) -> None:
    """Training would go on with the average in place of the weights that the optimizer knows."""
    averaging = any(isinstance(hook, EMAHook) for hook in runner.hooks)
    if runner._resume and "ema_state_dict" in checkpoint and not averaging:
        raise CheckpointError(
            f"{runner._load_from or runner.work_dir}: the run to resume averaged its weights; resume it --with ema, or "
            "start another from the average by --load-from."
        )


def _require_all(report: LoadingReport, source: str | None) -> None:
    if report.other_shape:
        raise CheckpointError(
            f"{source}: its shapes differ from the config's model in {_listed(report.other_shape)}; it was trained "
            "with another number of classes or another size of model. Use the config it was trained with."
        )
    if report.missing or report.unexpected:
        raise CheckpointError(
            f"{source}: belongs to another model than the config's (missing {_listed(report.missing)}; unexpected "
            f"{_listed(report.unexpected)}). Use the config it was trained with."
        )


def _lateral_names(state: Mapping[str, torch.Tensor]) -> list[str]:
    names = (name for name in state if name.startswith("neck.lateral_convs.") and name.endswith("conv.weight"))
    return sorted(names, key=lambda name: int(name.split(".")[2]))


def _listed(names: tuple[str, ...]) -> str:
    return f"{len(names)} ({_first(names)})" if names else "0"


def _first(names: tuple[str, ...]) -> str:
    return ", ".join(names[:_NAMES_SHOWN]) + (", …" if len(names) > _NAMES_SHOWN else "")
