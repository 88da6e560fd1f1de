"""Resuming a run: from a checkpoint of its own folder, wherever that is now, under the schedule of the config."""

from __future__ import annotations

import re
import warnings
import zipfile
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from mmdet.registry import HOOKS
from mmengine.dist import get_world_size
from mmengine.hooks import CheckpointHook, Hook

from cxr_mmdet.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from mmengine.optim import OptimWrapper
    from mmengine.runner import Runner

_ITERATION = re.compile(r"iter_\d+\.pth")
_PROGRESS = {"last_step", "_global_step", "_last_value", "base_values", "verbose"}
"""State of a scheduler that says how far it is, not what it does; base values are the optimizer's ``initial_…``."""
_CHANGES_SHOWN = 4
_BATCH_KEY = "images_per_iteration"


def newest_checkpoint(work_dir: Path, out_dir: str | None = None) -> Path | None:
    """Return the checkpoint to resume the run in ``work_dir`` from; None if there is none.

    It is the file that ``last_checkpoint`` names, looked for in this run's folder: mmengine notes an absolute path,
    which in a copy names the original's file and in a moved run none. Where that file is missing or cut, as after a
    kill, it is the one of the highest iteration.

    Args:
        work_dir: the run's folder.
        out_dir: the checkpoint hook's, should checkpoints go elsewhere.
    """
    folder = checkpoint_folder(work_dir, out_dir)
    note = work_dir / "last_checkpoint"
    name = PurePath(note.read_text(errors="replace").strip()).name if note.is_file() else ""
    if name and zipfile.is_zipfile(folder / name):
        return folder / name
    return max((path for path in _numbered(folder) if zipfile.is_zipfile(path)), key=_iteration, default=None)


def damaged_checkpoints(work_dir: Path, out_dir: str | None = None) -> list[Path]:
    """Return the run's numbered checkpoints that are cut or no checkpoints, by iteration."""
    numbered = _numbered(checkpoint_folder(work_dir, out_dir))
    return sorted((path for path in numbered if not zipfile.is_zipfile(path)), key=_iteration)


def _numbered(folder: Path) -> list[Path]:
    return [path for path in folder.glob("iter_*.pth") if _ITERATION.fullmatch(path.name)]


def _iteration(path: Path) -> int:
    return int(path.stem.removeprefix("iter_"))


def checkpoint_folder(work_dir: Path, out_dir: str | None) -> Path:
    """Return the folder that mmengine's checkpoint hook writes to."""
    return work_dir if out_dir is None or Path(out_dir) == work_dir else Path(out_dir) / work_dir.name


@HOOKS.register_module()
class ResumeHook(Hook):
    """Fit what a checkpoint says of its run to the folder and the config that it is resumed with.

    mmengine takes the learning rate, its schedule and all other settings of the optimizer from the checkpoint, whatever
    the config says. Where they differ, they are rebuilt here: the resumed run goes on with what a run of this config
    would have at this iteration. Where they do not, nothing is changed, and the resumed run is the uninterrupted one.

    Raises:
        ConfigError: the run has trained longer than the config asks for, or its new schedule depends on validations.
        CheckpointError: the run was trained with another optimizer.
    """

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Keep what the position in the stream of images depends on."""
        checkpoint[_BATCH_KEY] = _images_per_iteration(runner)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Change ``checkpoint`` in place."""
        if not runner._resume:
            return
        _keep_paths_inside(runner, checkpoint)
        done = checkpoint["meta"]["iter"]
        before, now = checkpoint.get(_BATCH_KEY), _images_per_iteration(runner)
        if before and now and before != now:
            runner.logger.warning(
                f"Resumed with another batch size ({before} -> {now} images per iteration): training goes on at image "
                f"{done * now:,} of the random order, where the run had come to {done * before:,}; train_cfg.max_iters "
                "still counts iterations."
            )
        if done > runner.max_iters:
            raise ConfigError(
                f"--resume: the run has trained {done} iterations, train_cfg.max_iters is {runner.max_iters}; ask for "
                f"more iterations, or test {runner._load_from} as it is."
            )
        schedulers = runner.param_schedulers or []
        if "optimizer" not in checkpoint or not isinstance(schedulers, list):
            return
        saved = checkpoint["optimizer"]["param_groups"]
        groups = runner.optim_wrapper.optimizer.param_groups
        _require_same_optimizer(saved, groups, runner._load_from)
        changes = _changed_settings(saved, groups) | _changed_schedulers(
            checkpoint.get("param_schedulers", []), schedulers
        )
        if not changes:
            return
        _forward(schedulers, done, checkpoint["meta"]["epoch"])
        rates = saved[0]["lr"], groups[0]["lr"]
        _take_over(checkpoint, runner.optim_wrapper, schedulers)
        shown = [f"{name} {old} -> {new}" for name, (old, new) in changes.items()]
        more = "" if len(shown) <= _CHANGES_SHOWN else f" and {len(shown) - _CHANGES_SHOWN} more"
        runner.logger.warning(
            f"Resumed with other settings ({', '.join(shown[:_CHANGES_SHOWN])}{more}): the schedule is rebuilt. After "
            f"{done} of {runner.max_iters} iterations the learning rate is {rates[1]:.3g}; it was {rates[0]:.3g}."
        )


def _images_per_iteration(runner: Runner) -> int | None:
    size = getattr(getattr(runner, "train_dataloader", None), "batch_size", None)
    return size * get_world_size() if size else None


def _keep_paths_inside(runner: Runner, checkpoint: dict[str, Any]) -> None:
    """Let a copied run remove and name its own best checkpoint, not the original's."""
    out_dir = next((hook.out_dir for hook in runner.hooks if isinstance(hook, CheckpointHook)), None)
    folder = checkpoint_folder(Path(runner.work_dir), out_dir)
    notes = checkpoint.get("message_hub", {}).get("runtime_info", {})
    for name in [name for name in notes if name.startswith(("best_ckpt", "last_ckpt"))]:
        if isinstance(notes[name], str):
            notes[name] = str(folder / PurePath(notes[name]).name)


def _require_same_optimizer(saved: list[dict[str, Any]], groups: list[dict[str, Any]], source: str | None) -> None:
    def shape(of: list[dict[str, Any]]) -> list[Any]:
        return [(len(group["params"]), "betas" in group, "momentum" in group) for group in of]

    if shape(saved) != shape(groups):
        raise CheckpointError(
            f"{source}: was trained with another optimizer, or other parameters were frozen; resume it with its own "
            "config, or start a new run from its weights by --load-from."
        )


def _changed_settings(saved: list[dict[str, Any]], groups: list[dict[str, Any]]) -> dict[str, tuple[Any, Any]]:
    """Return the optimizer's settings that differ, what is scheduled by its initial value."""
    changed: dict[str, tuple[Any, Any]] = {}
    for old, new in zip(saved, groups, strict=True):
        for key in old.keys() & new.keys() - {"params"}:
            if f"initial_{key}" not in new and old[key] != new[key]:
                changed.setdefault(key.removeprefix("initial_"), (old[key], new[key]))
    return dict(sorted(changed.items()))


def _changed_schedulers(saved: list[dict[str, Any]], schedulers: list[Any]) -> dict[str, tuple[Any, Any]]:
    if len(saved) != len(schedulers):
        return {"schedulers": (len(saved), len(schedulers))}
    changed = {}
    for old, scheduler in zip(saved, schedulers, strict=True):
        new = scheduler.state_dict()
        name = type(scheduler).__name__
        if not new.keys() - _PROGRESS <= old.keys():
            changed["param_scheduler"] = ("another", name)
        changed |= {
            f"{name}.{key}": (old[key], new[key])
            for key in new
            if key in old and key not in _PROGRESS and old[key] != new[key]
        }
    return changed


def _forward(schedulers: list[Any], iterations: int, epochs: int) -> None:
    """Step schedulers that are at their start as often as training has; their optimizer's settings follow."""
    for scheduler in schedulers:
        if getattr(scheduler, "need_val_args", False):
            raise ConfigError(
                f"--resume: {type(scheduler).__name__} depends on validations and cannot be rebuilt for other "
                "settings; resume with those of the run, or start a new one from its weights by --load-from."
            )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the optimizer has not stepped yet
        for by_epoch, steps in ((False, iterations), (True, epochs)):
            chosen = [scheduler for scheduler in schedulers if scheduler.by_epoch is by_epoch]
            for _ in range(steps if chosen else 0):
                for scheduler in chosen:
                    scheduler.step()


def _take_over(checkpoint: dict[str, Any], optim_wrapper: OptimWrapper, schedulers: list[Any]) -> None:
    """Put the settings of the optimizer and the schedulers in the place of the checkpoint's; its moments stay."""
    state = checkpoint["optimizer"]
    for old, new in zip(state["param_groups"], optim_wrapper.optimizer.param_groups, strict=True):
        old.update({key: value for key, value in new.items() if key != "params"})
    if "base_param_settings" in state:
        state["base_param_settings"] = optim_wrapper.base_param_settings
    checkpoint["param_schedulers"] = [scheduler.state_dict() for scheduler in schedulers]
