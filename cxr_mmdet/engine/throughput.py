"""Speed of training, time spent waiting for data and memory, in every log line and at the end."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch
from mmdet.registry import HOOKS, LOG_PROCESSORS
from mmengine.hooks import Hook, IterTimerHook
from mmengine.runner import LogProcessor

from cxr_mmdet.errors import counted
from cxr_mmdet.memory import peak_bytes

if TYPE_CHECKING:
    from mmengine.runner import Runner

_MIB = 1024 * 1024


@LOG_PROCESSORS.register_module()
class ThroughputLogProcessor(LogProcessor):
    """mmengine's log lines with ``images_per_second``, ``data_share`` and ``memory`` added.

    They come of the times that mmengine's IterTimerHook takes anyway, when a line is due and not in between. Images
    are those of all processes; ``data_share`` is the part of an iteration before its batch was there; ``memory`` is the
    peak in MiB: allocated on the GPU as mmengine gives it, else resident in this process, data workers left out.
    """

    def get_log_after_iter(self, runner: Runner, batch_idx: int, mode: str) -> tuple[dict[str, Any], str]:
        """Return the scalars and the line."""
        scalars, line = super().get_log_after_iter(runner, batch_idx, mode)
        if mode != "train":
            return scalars, line
        seconds = scalars.get("time")
        if seconds:
            scalars["images_per_second"] = images_per_iteration(runner) / seconds
            scalars["data_share"] = scalars["data_time"] / seconds
            line += f"  images/s: {scalars['images_per_second']:.1f}  waiting for data: {scalars['data_share']:.0%}"
        peak = peak_bytes()
        if "memory" not in scalars and peak is not None:
            scalars["memory"] = peak // _MIB
            line += f"  memory: {scalars['memory']}"
        return scalars, line


@HOOKS.register_module()
class ThroughputHook(Hook):
    """Keep validation and saving out of the times of iterations, and sum them up when training ends.

    mmengine counts what comes after an iteration's timer (log line, checkpoint, scoring a validation) to the next
    iteration, as time in which it waited for data.
    """

    priority = "LOWEST"  # when all of that is done

    def __init__(self) -> None:
        self._timer: IterTimerHook | None = None
        self._start = (0.0, 0)

    def before_train(self, runner: Runner) -> None:
        """Find the timer and start the clock."""
        self._timer = next((hook for hook in runner.hooks if isinstance(hook, IterTimerHook)), None)
        self._start = (time.monotonic(), runner.iter)

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Let the timer start here."""
        self._restart()

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Let the timer start here."""
        self._restart()

    def after_train(self, runner: Runner) -> None:
        """Log the summary of this run; of a resumed one, what came after the resume."""
        began, first = self._start
        iterations = runner.iter - first
        if self._timer is None or iterations == 0:
            return
        seconds, waited = (
            float(runner.message_hub.get_scalar(f"train/{name}").data[0][-iterations:].sum())
            for name in ("time", "data_time")
        )
        images = iterations * images_per_iteration(runner)
        whole = timedelta(seconds=round(time.monotonic() - began))
        runner.logger.info(
            f"Trained {counted(iterations, 'iteration')}, {counted(images, 'image')}, in "
            f"{timedelta(seconds=round(seconds))}: {images / seconds:.1f} images/s, "
            f"{waited / seconds:.0%} of the time waiting for data; "
            f"with validation and saving {whole}.{_peak()}"
        )

    def _restart(self) -> None:
        if self._timer is not None:
            self._timer.t = time.time()


def images_per_iteration(runner: Runner) -> int:
    """Return the images that one iteration takes, in all processes together."""
    loader = runner.train_dataloader
    size = loader.batch_size if loader.batch_size is not None else loader.batch_sampler.batch_size
    return int(size) * int(runner.world_size)


def _peak() -> str:
    if torch.cuda.is_available():
        return f" Peak memory {torch.cuda.max_memory_allocated() // _MIB} MiB on the GPU."
    peak = peak_bytes()
    return "" if peak is None else f" Peak memory {peak // _MIB} MiB, without the data workers."
