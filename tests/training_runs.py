"""Trainings as users start them, small: whole, killed after the first checkpoint, or within the test's own process."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import sys
import tempfile
from multiprocessing import forkserver
from pathlib import Path

import pytest
import torch
from mmengine.runner import IterBasedTrainLoop
from shared_builds import repeat_nothing_slow
from typer.testing import CliRunner

import cxr_mmdet.engine.running  # noqa: F401, for the forks
from cxr_mmdet.cli import test, train

SMALL_RETINA = [
    "model.backbone.base_channels=8",
    "model.backbone.stem_channels=8",
    "model.neck.in_channels=[16,32,64]",
    "model.neck.out_channels=32",
    "model.bbox_head.in_channels=32",
    "model.bbox_head.feat_channels=32",
    "model.bbox_head.norm_cfg.num_groups=8",
]
"""The demo's RetinaNet, a quarter as wide."""
TINY_TEST = ["val_dataloader.dataset.pipeline.2.scale=(64,64)", "test_dataloader.dataset.pipeline.2.scale=(64,64)"]
TINY_ANY = [
    *TINY_TEST,
    "val_share=None",
    "train_dataloader.batch_size=2",
    "train_dataloader.num_workers=1",
    "default_hooks.checkpoint.interval=2",
    "default_hooks.logger.interval=1",
    "train_dataloader.dataset.dataset.pipeline.4.scales=[(64,64),(96,96)]",
]
TINY = [*SMALL_RETINA, *TINY_ANY]
TINY_HERE = [
    *TINY_TEST,
    "val_share=None",
    "train_dataloader.batch_size=2",
    "train_dataloader.num_workers=0",
    "val_dataloader.num_workers=0",
    "train_dataloader.dataset.dataset.pipeline.4.scales=[(64,64),(96,96)]",
    "default_hooks.logger.interval=1",
    "train_cfg.max_iters=3",
    "train_cfg.val_interval=3",
]


def train_here(
    root: Path, work_dir: Path, *options: str, config: str = "retina_phantom", code: int = 0, more: tuple[str, ...] = ()
) -> str:
    """Train in this process, which must end with ``code``, and return what came on stderr.

    Args:
        root: the prepared folder.
        work_dir: where the run writes.
        options: ``key=value``, after those that make it tiny.
        config: the recipe.
        code: the exit code.
        more: more of the command line.
    """
    arguments = [config, "--data-root", str(root), "--work-dir", str(work_dir), *more]
    small = SMALL_RETINA if config == "retina_phantom" else []
    result = CliRunner().invoke(train.app, [*arguments, "--cfg-options", *small, *TINY_HERE, *options])
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.stderr
    return result.stderr


def error_of(stderr: str) -> str:
    """Return the one sentence that a command failed with."""
    (message,) = [line for line in stderr.splitlines() if line.startswith("error: ")]
    return message


_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload([__name__])


def _start_server() -> None:
    """Start the process that is forked, unless it runs; before Python 3.13 it does not get this one's module path."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
        forkserver.ensure_running()


class ForkedTool:
    """A tool in a fork of a process that has imported, once for all, what takes a new one six seconds."""

    def __init__(
        self,
        tool: str,
        *arguments: str,
        cwd: Path,
        options: list[str] = TINY,
        kill_in: int | None = None,
        environment: dict[str, str] | None = None,
    ) -> None:
        """Start it.

        Args:
            tool: ``train`` or ``test``.
            arguments: its command line.
            cwd: the folder it is started in.
            options: its ``--cfg-options``.
            kill_in: the iteration, counted from 1, at whose beginning the tool and its data workers are killed.
            environment: variables set for it.
        """
        self.logs = [Path(tempfile.mkstemp(dir=cwd, suffix=".log")[1]) for _ in range(2)]
        variables = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", **(environment or {})}
        line = [*arguments, "--cfg-options", *options]
        _start_server()
        self.process = _FORKS.Process(target=_run_tool, args=(tool, line, cwd, self.logs, kill_in, variables))
        self.process.start()

    def wait(self) -> int:
        """Return the exit code once it has ended; minus the signal that ended it."""
        self.process.join()
        return self.process.exitcode

    def output(self) -> tuple[str, str]:
        """Return what it has written to stdout and stderr."""
        stdout, stderr = (log.read_text() for log in self.logs)
        return stdout, stderr


def _run_tool(
    tool: str, line: list[str], cwd: Path, logs: list[Path], kill_in: int | None, environment: dict[str, str]
) -> None:
    os.setsid()
    os.chdir(cwd)
    os.environ.update(environment)
    for number, log in enumerate(logs, 1):
        os.dup2(os.open(log, os.O_WRONLY), number)
    sys.stdout, sys.stderr = os.fdopen(1, "w", buffering=1), os.fdopen(2, "w", buffering=1)
    repeat_nothing_slow()
    if kill_in is not None:
        _kill_in(kill_in)
    {"train": train, "test": test}[tool].app(line)


def _kill_in(iteration: int) -> None:
    usual = IterBasedTrainLoop.run_iter

    def run_iter(self, data_batch):
        if self._iter == iteration - 1:
            os.killpg(0, signal.SIGKILL)
        usual(self, data_batch)

    IterBasedTrainLoop.run_iter = run_iter


def run(tool: str, *arguments: str, cwd: Path, options: list[str] = TINY, processes: int = 0) -> tuple[str, str]:
    """Run a tool that must succeed and return its stdout and stderr.

    Args:
        tool: ``train`` or ``test``.
        arguments: its command line.
        cwd: the folder it is started in.
        options: its ``--cfg-options``.
        processes: of a distributed run, with the variables that torchrun sets.
    """
    distributed = {"WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    ranks = [{**distributed, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(processes)] or [{}]
    arguments = (*arguments, "--launcher", "pytorch") if processes else arguments
    tools = [ForkedTool(tool, *arguments, cwd=cwd, options=options, environment=rank) for rank in ranks]
    codes = [each.wait() for each in tools]
    outputs = [each.output() for each in tools]
    stdout, stderr = ("".join(parts) for parts in zip(*outputs, strict=True))
    assert not any(codes), stderr[-3000:]
    return stdout, stderr


def free_port() -> int:
    """Return a port of this machine at which nobody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def weights(path: Path, key: str = "state_dict") -> dict[str, torch.Tensor]:
    """Return the weights in a checkpoint."""
    return torch.load(path, map_location="cpu", weights_only=False)[key]


def differing(expected: dict[str, torch.Tensor], got: dict[str, torch.Tensor]) -> list[str]:
    """Return the names of weights that are not equal to the last bit."""
    assert expected.keys() == got.keys()
    return [name for name in expected if not torch.equal(expected[name], got[name])]
