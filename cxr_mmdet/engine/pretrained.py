"""Starting weights: what of a checkpoint fits the model, said out loud, and moved where our neck counts differently."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mmdet.registry import HOOKS
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper

from cxr_mmdet.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch
    from mmengine.runner import Runner

_FPN_LEVEL = re.compile(r"^(neck\.(?:lateral|fpn)_convs\.)(\d+)(\..+)$")
_NAMES_SHOWN = 4


@dataclass(frozen=True)
class LoadingReport:
    """Which parameters of a model a checkpoint provides.

    Attributes:
        matched: names with the same shape on both sides.
        other_shape: names on both sides whose shapes differ; as a rule the heads of another number of classes.
        missing: names of the model that the checkpoint lacks.
        unexpected: names of the checkpoint that the model lacks.
    """

    matched: tuple[str, ...]
    other_shape: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]

    def __str__(self) -> str:
        """Return the report as one line a group."""
        groups = {
            "loaded": self.matched,
            "skipped, other shape": self.other_shape,
            "not in the checkpoint": self.missing,
            "not in the model": self.unexpected,
        }
        return "\n".join(f"  {title}: {_listed(names)}" for title, names in groups.items())


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
        exact = runner._resume or runner._train_loop is None
        fitted = weights if exact else fit_fpn_levels(own, weights)
        report = compare_weights(own, fitted)
        if exact:
            _require_all(report, runner._load_from)
        elif not report.matched:
            raise CheckpointError(
                f"{runner._load_from}: none of its {len(weights)} parameters fits the model; it belongs to another "
                "architecture. Start from a checkpoint of this one, or from --load-from none."
            )
        else:
            runner.logger.info(f"Starting weights {runner._load_from}:\n{report}")
        kept = set(report.matched) | set(report.unexpected)
        checkpoint["state_dict"] = {name: value for name, value in fitted.items() if name in kept}


def _state_of(checkpoint: dict[str, Any], source: str | None) -> dict[str, Any]:
    weights = checkpoint.get("state_dict", checkpoint)
    if not weights or not all(hasattr(value, "shape") for value in weights.values()):
        raise CheckpointError(f"{source}: holds no model weights (no 'state_dict'); give a checkpoint of training.")
    return {name.removeprefix("module."): value for name, value in weights.items()}


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
    if not names:
        return "0"
    more = ", …" if len(names) > _NAMES_SHOWN else ""
    return f"{len(names)} ({', '.join(names[:_NAMES_SHOWN])}{more})"
