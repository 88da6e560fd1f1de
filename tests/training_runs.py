"""Trainings as users start them, small: whole, killed after the first checkpoint, or within the test's own process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch
from typer.testing import CliRunner

from cxr_mmdet.cli import train

ROOT = Path(__file__).resolve().parents[1]
TINY_TEST = ["val_dataloader.dataset.pipeline.2.scale=(64,64)", "test_dataloader.dataset.pipeline.2.scale=(64,64)"]
TINY = [
    *TINY_TEST,
    "train_dataloader.batch_size=2",
    "train_dataloader.num_workers=1",
    "default_hooks.checkpoint.interval=2",
    "default_hooks.logger.interval=1",
    "train_dataloader.dataset.dataset.pipeline.4.scales=[(64,64),(96,96)]",
]

TINY_HERE = [
    *TINY_TEST,
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
    result = CliRunner().invoke(train.app, [*arguments, "--cfg-options", *TINY_HERE, *options])
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.stderr
    return result.stderr


def error_of(stderr: str) -> str:
    """Return the one sentence that a command failed with."""
    (message,) = [line for line in stderr.splitlines() if line.startswith("error: ")]
    return message


def environment() -> dict[str, str]:
    """Return the environment of a run: one thread, no GPU."""
    return os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def command(tool: str, *arguments: str, options: list[str] = TINY) -> list[str]:
    """Return the command line of a tool."""
    return [sys.executable, str(ROOT / "tools" / f"{tool}.py"), *arguments, "--cfg-options", *options]


def run(*arguments: str, cwd: Path, options: list[str] = TINY) -> subprocess.CompletedProcess[str]:
    """Run a tool that must succeed."""
    tool, *rest = arguments
    done = subprocess.run(
        command(tool, *rest, options=options), cwd=cwd, env=environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done


def run_and_kill(*arguments: str, cwd: Path, options: list[str] = TINY, until: Path) -> None:
    """Start a tool and kill it as soon as the file ``until`` is there."""
    tool, *rest = arguments
    with (cwd / "killed.log").open("w") as log:
        victim = subprocess.Popen(
            command(tool, *rest, options=options),
            cwd=cwd,
            env=environment(),
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        _wait_for(until, victim)
        os.killpg(victim.pid, signal.SIGKILL)
        victim.wait()


def weights(path: Path, key: str = "state_dict") -> dict[str, torch.Tensor]:
    """Return the weights in a checkpoint."""
    return torch.load(path, map_location="cpu", weights_only=False)[key]


def differing(expected: dict[str, torch.Tensor], got: dict[str, torch.Tensor]) -> list[str]:
    """Return the names of weights that are not equal to the last bit."""
    assert expected.keys() == got.keys()
    return [name for name in expected if not torch.equal(expected[name], got[name])]


def _wait_for(path: Path, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 300
    while not path.exists():
        assert process.poll() is None, "the run ended before its first checkpoint"
        assert time.monotonic() < deadline, "no checkpoint within 300 s"
        time.sleep(0.02)
