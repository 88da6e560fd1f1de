"""Training and testing: a checked config in, checkpoints and scores out."""

from __future__ import annotations

import functools
import logging
import os
import re
import sys
import tempfile
import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import uuid4

import torch
from mmengine.dist import is_main_process
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner, find_latest_checkpoint

from cxr_mmdet.datasets.draw_counts import announce_draws
from cxr_mmdet.engine.checkpoint_file import trusting
from cxr_mmdet.engine.checks import check_images, check_numbers, check_training, check_types
from cxr_mmdet.engine.config import (
    annotated_parts,
    check_annotation_files,
    check_class_counts,
    check_start,
    limit_validation,
)
from cxr_mmdet.engine.hooks import CurvesHook
from cxr_mmdet.engine.metrics import CxrMetric
from cxr_mmdet.engine.phantom_start import resolve_start
from cxr_mmdet.engine.resuming import damaged_checkpoints, newest_checkpoint
from cxr_mmdet.engine.stopping import NonFiniteHook
from cxr_mmdet.errors import CheckpointError, ConfigError, CxrError, TrainingError, UsageError, first_line
from cxr_mmdet.models.finite import refuse_non_finite_outputs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mmengine.config import Config

    from cxr_mmdet.evaluation.evaluate import EvaluationResult

_T = TypeVar("_T")
_CONSOLE_LINES = 7
_TRACKERS = ("mlflow", "wandb")
_DEPRECATED = re.compile('^"(FileClient|HardDiskBackend)" ')
"""Warning that mmengine's own CheckpointHook causes in every run."""
_NAN_IN_MATCHING = "invalid numeric entries"
_OPTIONS_OF_WORKERS = ("persistent_workers", "prefetch_factor", "timeout", "multiprocessing_context")


@dataclass(frozen=True)
class TrainingOutcome:
    """Files and folders of a finished training.

    Attributes:
        work_dir: the run's folder.
        best_checkpoint: the checkpoint with the highest validation mAP@.5; None when there was no validation.
        last_checkpoint: the newest one.
        curves: the image of losses, learning rate and mAP, if anything was logged.
    """

    work_dir: Path
    best_checkpoint: Path | None
    last_checkpoint: Path | None
    curves: Path | None


@dataclass(frozen=True)
class ScoringOutcome:
    """The evaluation of a checkpoint, and the folder with ``detections.json`` and ``metrics.json``; on rank 0 only."""

    evaluation: EvaluationResult
    out_dir: Path


def train(
    config: Config, *, launcher: str = "none", resume: bool = False, trust_checkpoint: bool = False
) -> TrainingOutcome:
    """Train as ``config`` says, resuming from the newest checkpoint in its work dir if asked.

    Args:
        config: see :func:`~cxr_mmdet.engine.config.load_config`.
        launcher: as mmengine's.
        resume: go on from the newest checkpoint.
        trust_checkpoint: let the checkpoint that is loaded run code.

    Raises:
        ConfigError: the config contradicts itself or the data, or cannot be built.
        CheckpointError: starting weights or the checkpoint to resume cannot be had or do not fit.
        DatasetError: the prepared folder is not as the config expects.
    """
    work_dir = Path(config.work_dir)
    out_dir = config.get("default_hooks", {}).get("checkpoint", {}).get("out_dir")
    damaged: list[Path] = []
    if resume:
        newest = newest_checkpoint(work_dir, out_dir)
        damaged = damaged_checkpoints(work_dir, out_dir)
        if newest is None:
            raise CheckpointError(
                f"{work_dir}: holds no checkpoint to resume{_but(damaged)}; omit --resume, or name the run's folder by "
                "--work-dir."
            )
        config.resume, config.load_from = True, str(newest)
    else:
        resolve_start(config)
        check_start(config)
    runner = _build_runner(config, launcher)
    check_training(runner)
    if is_main_process():
        announce_draws(runner.train_dataloader, runner.logger)
        if damaged:
            runner.logger.warning(f"Resuming from {Path(config.load_from).name}{_but(damaged)}.")
    with trusting(trust_checkpoint), _errors_of_workers():
        _run_training(runner)
    curves = work_dir / "curves.png"
    return TrainingOutcome(
        work_dir=work_dir,
        best_checkpoint=best_checkpoint(work_dir),
        last_checkpoint=newest_checkpoint(work_dir, out_dir),
        curves=curves if curves.is_file() else None,
    )


def score_checkpoint(
    config: Config,
    checkpoint: str,
    *,
    split: str = "val",
    out_dir: Path | None = None,
    launcher: str = "none",
    trust_checkpoint: bool = False,
) -> ScoringOutcome | None:
    """Score ``checkpoint`` on a split of the prepared folder.

    Args:
        config: the config it was trained with.
        checkpoint: a file, or a run's folder, which stands for its best checkpoint.
        split: ``val``, or ``train``: the training images through the test pipeline, without virtual copies.
        out_dir: where detections and metrics go; the work dir's ``test_<split>`` by default.
        launcher: as mmengine's.
        trust_checkpoint: let the checkpoint run code while it is loaded.

    Returns:
        The scores; None on other ranks than the first.

    Raises:
        CheckpointError: the checkpoint is missing, damaged, another model's, or would run code.
        NotFiniteError: the detector gives NaN or infinity for an image.
        ConfigError: the config contradicts the data.
        DatasetError: the prepared folder is not as the config expects.
    """
    path = find_checkpoint(checkpoint)
    folder = out_dir or Path(config.work_dir) / f"test_{split}"
    # The run's own folder keeps the config it was trained with: the Runner dumps what it gets into its work dir.
    config.update(load_from=str(path), resume=False, work_dir=str(folder))
    _select_split(config, split)
    config.test_evaluator.update(out_dir=str(folder))
    for training_part in ("train_dataloader", "train_cfg", "optim_wrapper", "param_scheduler"):
        config[training_part] = None
    for validation_part in ("val_dataloader", "val_cfg", "val_evaluator"):
        config[validation_part] = None
    runner = _build_runner(config, launcher)
    check_class_counts(config, runner.test_dataloader.dataset.metainfo["classes"])
    refuse_non_finite_outputs(runner.model.module if is_model_wrapper(runner.model) else runner.model)
    check_images(runner.test_dataloader.dataset)
    with trusting(trust_checkpoint), _errors_of_workers():
        runner.test()
    if not is_main_process():
        return None
    metric = next(metric for metric in runner.test_evaluator.metrics if isinstance(metric, CxrMetric))
    assert metric.evaluation is not None, "the test loop evaluates on the main process"
    return ScoringOutcome(evaluation=metric.evaluation, out_dir=folder)


def best_checkpoint(work_dir: Path) -> Path | None:
    """Return the best checkpoint of the run in ``work_dir``; the newest, should two runs have left one."""
    return max(work_dir.glob("best_*.pth"), key=os.path.getmtime, default=None)


def find_checkpoint(name: str) -> Path:
    """Return the checkpoint ``name``, or the best of the run in that folder; the last of a run that was not validated.

    Raises:
        CheckpointError: there is none.
    """
    path = Path(name)
    found: Path | None = path
    if path.is_dir():
        last = find_latest_checkpoint(str(path)) if (path / "last_checkpoint").is_file() else None
        found = best_checkpoint(path) or (path / Path(last).name if last else None)
    if found is None or not found.is_file():
        raise CheckpointError(f"{name}: no such checkpoint; training writes them into work_dirs/<config>/.")
    return found


def _select_split(config: Config, split: str) -> None:
    if split == "val":
        return
    training = annotated_parts(config.train_dataloader)
    if len(training) != 1:
        raise ConfigError(f"--split {split}: the config trains on {len(training)} annotation files, not on one.")
    for part in annotated_parts([config.test_dataloader, config.test_evaluator]):
        part["ann_file"] = training[0]["ann_file"]


@contextmanager
def _errors_of_workers() -> Iterator[None]:
    """Give a user's error that comes from a data worker as its sentence, without the worker's traceback around it."""
    try:
        yield
    except CxrError as error:
        _, around, sentence = str(error).rpartition(f"{type(error).__qualname__}: ")
        raise (type(error)(sentence.strip()) if around else error) from None


def _run_training(runner: Runner) -> None:
    """Run the training; where it diverges, its curves are drawn all the same."""
    try:
        try:
            runner.train()
        except ValueError as error:
            # DINO's matching by SciPy raises at the first NaN, before there is a loss to look at.
            hook = next((hook for hook in runner.hooks if isinstance(hook, NonFiniteHook)), None)
            if hook is None or _NAN_IN_MATCHING not in str(error):
                raise
            hook.stop(runner, "the detector's outputs are not finite")
    except TrainingError:
        for hook in runner.hooks:
            if isinstance(hook, CurvesHook):
                hook.after_train(runner)
        raise


def _but(damaged: list[Path]) -> str:
    names = ", ".join(path.name for path in damaged)
    return f", but {names}, cut or damaged as after a full disk" if damaged else ""


def _build_runner(config: Config, launcher: str) -> CheckedRunner:
    check_annotation_files(config)
    check_numbers(config)
    check_types(config)
    note = limit_validation(config)
    config.launcher = launcher
    _make_work_dir(Path(config.work_dir))
    for evaluator in annotated_parts([config.val_evaluator, config.test_evaluator]) if launcher != "none" else ():
        # Else mmengine leaves an empty .dist_test where the command was started.
        evaluator["collect_dir"] = str(Path(config.work_dir) / ".collect")
    if launcher != "none":
        # DDP copies a gradient whose memory is channels last into a bucket that is not: no fault, and no choice.
        warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
    if launcher != "none" and not torch.cuda.is_available():
        _distribute_over_cpus(config, launcher)
    try:
        runner = CheckedRunner.from_cfg(config)
    except ImportError as error:  # mmengine's visualizer back ends import their packages when they are first used
        raise ConfigError(
            f"visualizer.vis_backends: a back end needs a package that is not installed ({error}); install it, or "
            "remove the back end from the config."
        ) from error
    except Exception as error:
        if type(error).__module__.partition(".")[0] in _TRACKERS:
            raise ConfigError(
                f"visualizer.vis_backends: the back end cannot start ({first_line(error)}); correct or remove it."
            ) from error
        if isinstance(error, (AssertionError, KeyError, TypeError, ValueError)):
            raise ConfigError(
                f"the config's general settings (seed, log level, environment) do not fit: {error}"
            ) from error
        raise
    if note:
        runner.logger.info(note)
    return runner


def _make_work_dir(folder: Path) -> None:
    """Make the folder that the run writes to.

    Raises:
        UsageError: it cannot be made or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UsageError(
            f"{folder}: the run cannot write there ({error.strerror}); choose another folder by --work-dir, or when "
            "testing by --out."
        ) from None


def _distribute_over_cpus(config: Config, launcher: str) -> None:
    """Join the processes by gloo, which mmengine's own set-up cannot: it asks for a CUDA device of each."""
    if launcher != "pytorch":
        raise ConfigError(f"--launcher {launcher}: needs GPUs; on CPUs use torchrun and --launcher pytorch.")
    if "RANK" not in os.environ:
        raise ConfigError("--launcher pytorch: RANK is not set; start as torchrun --nproc_per_node=N tools/train.py …")
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group("gloo")
    config.model_wrapper_cfg = {
        "type": "MMDistributedDataParallel",
        "device_ids": None,
        "broadcast_buffers": False,
        "find_unused_parameters": config.get("find_unused_parameters", False),
    }


def _explained(build: Callable[..., _T]) -> Callable[..., _T]:
    """Turn what building a part from its config raises into a sentence that names the part."""

    @functools.wraps(build)
    def explained(self: Runner, *args: Any, **kwargs: Any) -> _T:
        try:
            return build(self, *args, **kwargs)
        except (AssertionError, ImportError, KeyError, TypeError, ValueError) as error:
            part = build.__name__.removeprefix("build_").removeprefix("register_")
            raise ConfigError(f"the config's {part} cannot be built: {error}") from error

    return explained


class CheckedRunner(Runner):
    """mmengine's Runner whose user errors are sentences: what cannot be built."""

    _build_visualizer = _explained(Runner.build_visualizer)
    build_model = _explained(Runner.build_model)
    register_hooks = _explained(Runner.register_hooks)
    build_optim_wrapper = _explained(Runner.build_optim_wrapper)
    build_param_scheduler = _explained(Runner.build_param_scheduler)
    build_train_loop = _explained(Runner.build_train_loop)
    build_val_loop = _explained(Runner.build_val_loop)
    build_test_loop = _explained(Runner.build_test_loop)

    def resume(self, filename: str, *args: Any, **kwargs: Any) -> None:
        """Resume as mmengine does.

        Raises:
            CheckpointError: the file holds weights, but not the state of a training that mmengine wrote.
        """
        try:
            super().resume(filename, *args, **kwargs)
        except CxrError:
            raise
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise CheckpointError(
                f"{filename}: holds no training state to resume from ({type(error).__name__}: {error}); start a "
                f"new run from its weights by --load-from {filename}, without --resume."
            ) from error

    @staticmethod
    def build_dataloader(dataloader: Any, *args: Any, **kwargs: Any) -> Any:
        """Return mmengine's; with ``num_workers=0`` without the options of workers, which torch then refuses."""
        if isinstance(dataloader, dict) and not dataloader.get("num_workers"):
            dataloader = {key: value for key, value in dataloader.items() if key not in _OPTIONS_OF_WORKERS}
        return Runner.build_dataloader(dataloader, *args, **kwargs)

    def build_visualizer(self, visualizer: Any = None) -> Any:
        """Return a visualizer of this run alone; mmengine hands over an earlier one of the process by its name."""
        if isinstance(visualizer, dict):
            visualizer = {**visualizer, "name": f"{self.experiment_name}_{uuid4().hex}"}
        return self._build_visualizer(visualizer)

    def build_message_hub(self, message_hub: Any = None) -> Any:
        """Return a message hub of this run alone; two runs of a process that begin in one second would share one."""
        return super().build_message_hub(message_hub or {"name": f"{self.experiment_name}_{uuid4().hex}"})

    def build_logger(self, *args: Any, **kwargs: Any) -> Any:
        """Return mmengine's logger; its console is stderr, without the long dumps that the log file holds."""
        logger = super().build_logger(*args, **kwargs)
        logger.addFilter(lambda record: not _DEPRECATED.search(record.getMessage()))
        for handler in logger.handlers:
            if isinstance(handler, logging.StreamHandler) and not isinstance(handler, logging.FileHandler):
                # Not setStream: it flushes the old stream, which an earlier run in this process may have closed.
                handler.stream = sys.stderr
                handler.addFilter(lambda record: record.getMessage().count("\n") < _CONSOLE_LINES)
        return logger
