"""Early ends of a training: scores that no longer rise, counted across a kill and resume, and NaN."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from mmdet.registry import HOOKS
from mmengine.hooks import CheckpointHook, Hook

from cxr_mmdet.errors import CheckpointError, ConfigError, TrainingError
from cxr_mmdet.structures.radiograph_files import image_id_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mmengine.runner import Runner
    from torch import Tensor, nn

_IMAGES_SHOWN = 8
_RUNNING_STATISTICS = ("running_mean", "running_var")
_SMALLEST_LOSS_SCALE = 2.0**-14
"""float16's smallest normal number. A GradScaler that starts at 2**16 gets there by 31 skipped steps in a row, where a
few are normal: no scale makes such gradients finite."""


@HOOKS.register_module()
class MissedValidationHook(Hook):
    """Validate first, on resuming a checkpoint that was saved at a validation's iteration but before the validation.

    mmengine saves, then validates, and never comes back to a validation during which the run was killed: the best
    checkpoint may be missed, and whoever counts validations counts one less than in an uninterrupted run.
    """

    priority = "ABOVE_NORMAL"  # before whoever saves a checkpoint after the validation

    def __init__(self) -> None:
        self.validated = 0

    def before_train_epoch(self, runner: Runner) -> None:
        """Make up for the validation."""
        loop = runner.train_loop
        if not runner._resume or runner.val_loop is None or self.validated >= runner.iter:
            return
        loop._decide_current_val_interval()
        last = runner.iter == runner.max_iters
        if runner.iter >= loop.val_begin and (last or runner.iter % loop.val_interval == 0):
            runner.logger.info(f"Validating after {runner.iter} iterations, which the resumed run did not come to.")
            runner.val_loop.run()

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Remember the iteration."""
        self.validated = runner.iter

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Keep it."""
        checkpoint["validated"] = self.validated

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Take it up."""
        if runner._resume:
            self.validated = checkpoint.get("validated", 0)


@HOOKS.register_module()
class StopEarlyHook(Hook):
    """End training when the metric that picks the best checkpoint has not risen for some validations in a row.

    mmengine's EarlyStoppingHook starts counting anew on resuming, takes a metric that stays where it is for a rising
    one, asks for the metric's name once more, and leaves the last weights unsaved.

    Args:
        patience: validations without a rise until training ends.
        min_delta: what the metric must rise by to count as risen; anything above 0 by default.

    Raises:
        ConfigError: the config picks no best checkpoint, or does not validate.
    """

    # After the line of BestSoFarHook (LOW, 70), before the checkpoint hook (VERY_LOW, 90) saves what may be the best.
    priority = 80

    def __init__(self, patience: int = 5, min_delta: float = 0.0) -> None:
        if patience < 1 or min_delta < 0:
            raise ConfigError(
                f"StopEarlyHook: patience is {patience}, min_delta is {min_delta}; give at least 1 validation and 0."
            )
        self.patience = patience
        self.min_delta = min_delta
        self.best: tuple[float, int] | None = None
        self.waited = 0

    def before_train(self, runner: Runner) -> None:
        """Check that there is something to watch; end at once a run that had stopped before it was resumed."""
        if runner.val_loop is None or not _checkpoint_hook(runner).save_best:
            raise ConfigError(
                "early stopping: the config picks no best checkpoint by validation; set "
                "default_hooks.checkpoint.save_best, as bbox/mAP_50, and val_interval, or omit early_stopping."
            )
        if self.waited >= self.patience and runner.iter < runner.max_iters:
            self._stop(runner)

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Count the validation."""
        hook = _checkpoint_hook(runner)
        value = (metrics or {}).get(hook.save_best[0])
        if value is None:
            return
        sign = -1 if hook.rules[0] == "less" else 1
        if self.best is None or sign * (value - self.best[0]) > self.min_delta:
            self.best, self.waited = (float(value), runner.iter), 0
            return
        self.waited += 1
        if self.waited >= self.patience and runner.iter < runner.max_iters:
            self._stop(runner)
            hook._save_checkpoint_with_step(runner, runner.iter, {"epoch": runner.epoch, "iter": runner.iter})

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Keep the count over a resume."""
        checkpoint["early_stopping"] = {"best": self.best, "waited": self.waited}

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Take the count up; a run that had no early stopping before starts counting here."""
        if runner._resume and "early_stopping" in checkpoint:
            self.best, self.waited = checkpoint["early_stopping"]["best"], checkpoint["early_stopping"]["waited"]

    def _stop(self, runner: Runner) -> None:
        runner.train_loop.stop_training = True
        assert self.best is not None, "only a validation after the first can go without a rise"
        value, iteration = self.best
        name = _checkpoint_hook(runner).save_best[0]
        runner.logger.info(
            f"Stopped early after {runner.iter} of {runner.max_iters} iterations: in {self.waited} validations "
            f"{name} has not passed {value:.4f}, reached after {iteration} iterations. "
            "To go on, resume with a larger patience or without early_stopping."
        )


@HOOKS.register_module()
class NonFiniteHook(Hook):
    """Stop a training whose loss or weights are no longer finite, before anything is saved or scored of it.

    A loss that is not finite makes the weights so in the same step, unless gradients are accumulated, or a GradScaler
    (float16) skips the step. Skipped steps are normal and change nothing; they count only when the loss stays
    non-finite, or when the scaler finds no scale at which the gradients are finite.

    Args:
        patience: consecutive iterations whose loss is not finite, while the weights are, that end the training.
        scaled_patience: the same, where a GradScaler protects the weights.

    Raises:
        TrainingError: the training stops; names the iteration, the learning rate and the images.
        CheckpointError: the weights to start from are not finite.
    """

    priority = "HIGH"  # before the averaged weights, and before whoever saves a checkpoint

    def __init__(self, patience: int = 2, scaled_patience: int = 20) -> None:
        self.patience = patience
        self.scaled_patience = scaled_patience
        self.losses_lost = 0
        self.batch: Any = None

    def before_train(self, runner: Runner) -> None:
        """Check the weights that were loaded."""
        self._check_loaded(runner)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Remember the batch, should the detector itself raise."""
        self.batch = data_batch

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict[str, Any] | None = None
    ) -> None:
        """Check the loss, and the weights after the step."""
        self.batch = data_batch
        losses = {
            name: float(torch.as_tensor(value).detach()) for name, value in (outputs or {}).items() if "loss" in name
        }
        lost = [name for name, value in losses.items() if not math.isfinite(value)]
        self.losses_lost = self.losses_lost + 1 if lost else 0
        scaler = getattr(runner.optim_wrapper, "loss_scaler", None)
        weight = first_non_finite(runner.model, trained_only=True)
        patience = self.patience if scaler is None else self.scaled_patience
        if weight is not None:
            loss = (
                f"the loss ({lost[0]}) is not finite and neither are" if lost else "the step gave non-finite values to"
            )
            self.stop(runner, f"{loss} the weights (first {weight})")
        if self.losses_lost >= patience:
            self.stop(runner, f"the loss ({lost[0]}) is not finite, {self.losses_lost} times in a row")
        if scaler is not None and 0 < scaler.get_scale() < _SMALLEST_LOSS_SCALE:
            self.stop(runner, "the float16 gradients are not finite at any scale of the loss")

    def _check_loaded(self, runner: Runner) -> None:
        weight = first_non_finite(runner.model)
        if weight is not None:
            raise CheckpointError(
                f"{runner._load_from or runner.work_dir}: its weights are not finite (first {weight}); the training "
                "that wrote it had failed. Use an earlier checkpoint."
            )

    def stop(self, runner: Runner, what: str) -> NoReturn:
        """Raise the sentence that ends the training, ``what`` having happened in this iteration."""
        rates = runner.optim_wrapper.get_lr()
        rate = rates["lr"][0] if isinstance(rates.get("lr"), list) else next(iter(rates.values()))[0]
        noted = [hook.last_ckpt for hook in runner.hooks if isinstance(hook, CheckpointHook) and hook.last_ckpt]
        saved = next(iter(noted), runner._load_from if runner._resume else None)
        again = f"go on from {Path(saved).name} by --resume" if saved else "no checkpoint was saved yet; start again"
        raise TrainingError(
            f"training stopped in iteration {runner.iter + 1} (learning rate {rate:.3g}, images "
            f"{_listed_images(self.batch)}): {what}; {again} with a lower learning rate, as in --cfg-options "
            f"optim_wrapper.optimizer.lr={runner.optim_wrapper.optimizer.defaults.get('lr', rate) / 10:.3g}, or "
            "--with clip_gradients, or without these images."
        )


def first_non_finite(model: nn.Module, *, trained_only: bool = False) -> str | None:
    """Return the name of the first weight or running statistic of a norm that holds NaN or infinity, if any does.

    Args:
        model: wrapped or not.
        trained_only: leave out parameters that are frozen.
    """
    named = {
        name: value
        for name, value in model.named_parameters()
        if value.is_floating_point() and not (trained_only and not value.requires_grad)
    } | {name: value for name, value in model.named_buffers() if name.endswith(_RUNNING_STATISTICS)}
    if not named or _all_finite(named.values()):
        return None
    return next(name.removeprefix("module.") for name, value in named.items() if not _all_finite([value]))


def _all_finite(tensors: Iterable[Tensor]) -> bool:
    """Return whether no value is NaN or infinite; a sum keeps both, and costs a tenth of asking each value."""
    return bool(torch.stack([tensor.detach().sum(dtype=torch.float32) for tensor in tensors]).isfinite().all())


def _listed_images(data_batch: Any) -> str:
    samples = data_batch.get("data_samples", []) if isinstance(data_batch, dict) else []
    names = [image_id_of(sample.img_path) if hasattr(sample, "img_path") else "?" for sample in samples]
    return ", ".join(names[:_IMAGES_SHOWN]) + (", …" if len(names) > _IMAGES_SHOWN else "") or "unknown"


def _checkpoint_hook(runner: Runner) -> CheckpointHook:
    return next(hook for hook in runner.hooks if isinstance(hook, CheckpointHook))
