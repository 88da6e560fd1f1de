"""Validations that decide: none is lost to a kill, and when they no longer rise, training ends."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mmdet.registry import HOOKS
from mmengine.hooks import CheckpointHook, Hook

from cxr_mmdet.errors import ConfigError

if TYPE_CHECKING:
    from mmengine.runner import Runner


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
                "default_hooks.checkpoint.save_best, as bbox/mAP_50, and val_interval, or leave early_stopping away."
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


def _checkpoint_hook(runner: Runner) -> CheckpointHook:
    return next(hook for hook in runner.hooks if isinstance(hook, CheckpointHook))
