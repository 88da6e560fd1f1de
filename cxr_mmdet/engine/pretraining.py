"""Pretraining on phantoms: draw them once per machine, train a recipe's network on them, keep its weights."""

from __future__ import annotations

import json
import shlex
import shutil
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cxr_mmdet import __version__
from cxr_mmdet.engine.config import NO_WEIGHTS, class_names, load_config
from cxr_mmdet.engine.phantom_start import own_starts, write_start
from cxr_mmdet.engine.resuming import newest_checkpoint
from cxr_mmdet.engine.running import train
from cxr_mmdet.errors import UsageError
from cxr_mmdet.files import atomic_path, cache_folder, make_writable_folder, sole_use
from cxr_mmdet.preparation.phantoms import ABNORMAL_SHARE, BEDSIDE_SHARE, prepare_phantoms

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mmengine.config import Config

SWITCHES = ("ema", "many_machines")
_NOTE, _TIMED_ITERATIONS = "pretraining.json", 20
_CARD = """# Starting weights: {recipe}, pretrained on phantoms

Weights of the recipe `{recipe}` for `load_from = "phantom"`, to start the training of a detector for chest radiographs.
They are no detector for patients.

| | |
| --- | --- |
| Trained on | {images} synthetic radiographs of the package's phantom ({size} px, seed {seed}, {share:.0f} % with findings, {bedside:.0f} % at the bedside); no radiograph of a person, no weights of others |
| Classes | {classes} |
| Training | {iterations} iterations of {batch} images from random weights{minutes} |
| Switches | {switches} |
| Measured | {scores}, on phantoms kept apart |
| File | {{megabytes}} MB, safetensors, kernels in 8 bits with a scale per output channel; SHA-256 {{sha256}} |
| Made by | `{command}`, cxr_mmdet {version} |
| Licence | Apache-2.0, as the package's |

What phantoms teach is the anatomy and coarse looks of findings. Scores on phantoms say nothing about radiographs:
fine-tune, and evaluate on patients of your own.
"""  # noqa: E501


@dataclass(frozen=True)
class PretrainingOptions:
    """Options of a pretraining.

    Attributes:
        recipe: name of a recipe, or a config's path.
        images: number of phantoms.
        size: their short edge in pixels.
        seed: of the phantoms.
        iterations: length of the training.
        cfg_options: overrides of the config, as ``key=value``.
    """

    recipe: str = "retina_small"
    images: int = 2400
    size: int = 288
    seed: int = 11
    iterations: int = 2000
    cfg_options: tuple[str, ...] = ()


def pretrain(
    options: PretrainingOptions,
    *,
    minutes: float | None = None,
    out: Path | None = None,
    jobs: int = 1,
    force: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Return the weights file of a pretraining, which goes on where an earlier one with the same options stopped.

    Args:
        options: what is trained.
        minutes: about how long training takes on this machine, in place of ``options.iterations``.
        out: the weights file; by default the recipe's in the cache.
        jobs: processes that draw phantoms.
        force: replace the weights file, and forget a pretraining that was not finished.
        progress: called with the number of phantoms just drawn, and of all.

    Raises:
        UsageError: the weights file exists or cannot be written, another pretraining runs or of this recipe is not
            finished, or there is no place for the cache.
        ConfigError: the recipe does not exist or cannot be built.
    """
    load_config(options.recipe, switches=SWITCHES, cfg_options=options.cfg_options)  # before phantoms are drawn
    name = Path(options.recipe).stem
    out = out or own_starts() / f"{name}.safetensors"
    if out.suffix != ".safetensors":
        raise UsageError(f"{out}: weights are written as safetensors; give a name that ends in .safetensors.")
    run = cache_folder() / "pretraining" / name
    with sole_use(run.parent, "name another folder for the cache by XDG_CACHE_HOME"):
        unfinished = None if force else _unfinished(run, options, minutes, out)
        if out.exists() and not force and unfinished is None:
            raise UsageError(f"{out}: exists; pass --force to replace it, or --out for another file.")
        make_writable_folder(out.parent, "name another file by --out")
        if force:
            shutil.rmtree(run, ignore_errors=True)
        drawn = unfinished or options
        data = prepare_phantoms(drawn.images, drawn.size, drawn.seed, jobs=jobs, progress=progress)
        options = unfinished or _begin(run, options, minutes, data, out)
        config = _config(options, data, run)
        outcome = train(config, resume=newest_checkpoint(run) is not None)
        assert outcome.last_checkpoint is not None, "a training ends with a checkpoint"
        write_start(outcome.last_checkpoint, out, config, _card(options, config, run))
        shutil.rmtree(run)
        return out


def _unfinished(run: Path, options: PretrainingOptions, minutes: float | None, out: Path) -> PretrainingOptions | None:
    """Return the options that a pretraining was begun with and goes on with; None if there is none to go on with."""
    note = run / _NOTE
    if not note.is_file():
        return None
    earlier = json.loads(note.read_text(encoding="utf-8"))
    wanted = json.loads(_noted(options, out)) | ({"iterations": earlier["iterations"]} if minutes else {})
    if other := ", ".join(f"{key} {earlier[key]}" for key in earlier if earlier[key] != wanted[key]):
        raise UsageError(
            f"{run}: holds an unfinished pretraining with other options ({other}); go on with those, or pass "
            "--force to begin anew."
        )
    return replace(options, iterations=earlier["iterations"])


def _begin(run: Path, options: PretrainingOptions, minutes: float | None, data: Path, out: Path) -> PretrainingOptions:
    """Note the options of a pretraining in its folder, and return them with their number of iterations."""
    if minutes is not None:
        seconds = _seconds_per_iteration(options, data)
        options = replace(options, iterations=max(1, round(minutes * 60 / seconds)))
    with atomic_path(run / _NOTE) as temporary:
        temporary.write_text(_noted(options, out), encoding="utf-8")
    return options


def _noted(options: PretrainingOptions, out: Path) -> str:
    return json.dumps(asdict(options) | {"out": str(out.resolve())})


def _config(options: PretrainingOptions, data: Path, run: Path, more: Sequence[str] = ()) -> Config:
    length = options.iterations
    settings = (
        f"train_cfg.max_iters={length}",
        f"train_cfg.val_interval={length}",
        f"default_hooks.checkpoint.interval={max(1, length // 20)}",
    )
    return load_config(
        options.recipe,
        data_root=data,
        labels="auto",
        work_dir=run,
        load_from=NO_WEIGHTS,
        switches=SWITCHES,
        cfg_options=[*settings, *options.cfg_options, *more],
    )


def _seconds_per_iteration(options: PretrainingOptions, data: Path) -> float:
    """Return what an iteration takes on this machine, by the last half of a few."""
    options = replace(options, iterations=_TIMED_ITERATIONS)
    with tempfile.TemporaryDirectory() as folder:
        never = f"train_cfg.val_interval={10 * _TIMED_ITERATIONS}"
        train(_config(options, data, Path(folder), (never, "default_hooks.logger.interval=1")))
        return float(_scalars(Path(folder))[-1]["time"])


def _scalars(run: Path) -> list[dict[str, Any]]:
    files = sorted(run.glob("*/vis_data/scalars.json"))
    return [json.loads(line) for file in files for line in file.read_text(encoding="utf-8").splitlines()]


def _card(options: PretrainingOptions, config: Config, run: Path) -> str:
    lines = _scalars(run)
    scores: dict[str, Any] = next((line for line in reversed(lines) if "bbox/mAP_50" in line), {})
    seconds = [line["time"] for line in lines if "loss" in line]
    command = ["cxr", "pretrain", options.recipe]
    for key in ("images", "size", "seed", "iterations"):
        command += [f"--{key}", str(getattr(options, key))]
    if options.cfg_options:
        command += ["--cfg-options", *options.cfg_options]
    return _CARD.format(
        recipe=Path(options.recipe).stem,
        images=f"{options.images:,}",
        size=options.size,
        seed=options.seed,
        share=100 * ABNORMAL_SHARE,
        bedside=100 * BEDSIDE_SHARE,
        classes=", ".join(class_names(config)),
        iterations=f"{options.iterations:,}",
        batch=config.train_dataloader.batch_size,
        minutes=f", {sum(seconds) / len(seconds) * options.iterations / 60:.0f} min" if seconds else "",
        switches=", ".join(SWITCHES),
        scores=", ".join(
            f"{title} {scores[key]:.3f}"
            for title, key in {"mAP@.5": "bbox/mAP_50", "mAP@[.5:.95]": "bbox/mAP"}.items()
            if scores.get(key) is not None
        )
        or "nothing",
        command=shlex.join(command),
        version=__version__,
    )
