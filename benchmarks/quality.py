"""Quality of detectors after equal processor time on the same data: trainings in turn, one folder each.

Each training is a run of its recipe, shortened or lengthened to the budget: the seconds an iteration of each contestant
are measured first, in turn, once for all seeds, and its schedule is stretched over the iterations that fit. What is
scored is the last checkpoint, never the best on the images that it is scored on.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from mmdet.registry import HOOKS
from mmengine.hooks import Hook

from benchmarks.partial_labels import unite
from benchmarks.run_inputs import RANDOM, check_inputs, hash_data, hash_settings, hash_start, recipe_settings
from benchmarks.yolo import YoloSettings, train_yolo
from cxr_mmdet.engine.config import annotated_parts, load_config
from cxr_mmdet.engine.running import train
from cxr_mmdet.errors import DatasetError, UsageError
from cxr_mmdet.evaluation.headline import match_all, point_values
from cxr_mmdet.files import sole_use, write_json
from cxr_mmdet.structures.coco import (
    read_coco,
    read_detections,
    sort_detections,
    write_coco,
    write_detections,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from mmengine.config import Config
    from mmengine.runner import Runner

    from benchmarks.contestant import Contestant
    from benchmarks.folds import Part

RESULT_FILE, CLOCK_FILE, PACE_FILE = "run.json", "clock.json", "pace.json"
_ELSEWHERE = "name another folder by --out"
_WARM_UP_ITERATIONS, _TIMED_ITERATIONS, _TIMED_ROUNDS = 4, 12, 2


@dataclass(frozen=True)
class QualityRun:
    """One finished training, as ``run.json`` holds it.

    Attributes:
        contestant: its name.
        seed: of weights and data.
        iterations: trained.
        cpu_s: processor seconds of training, all threads, loading included, validation not.
        curve: (processor seconds, mAP@[.5:.95]) of each validation.
        ann_file: the validation images' COCO file, relative to the benchmark's folder if it is there, else to the
            prepared folder.
        part: folder of a fold and a share of the labels within the contestant's, such as ``fold_2/share_0.3``.
        inputs: hashes of what it was trained on, see :mod:`benchmarks.run_inputs`.
    """

    contestant: str
    seed: int
    iterations: int
    cpu_s: float
    curve: tuple[tuple[float, float], ...]
    ann_file: str
    part: str = ""
    inputs: Mapping[str, str] = field(default_factory=dict)

    def ground_truth(self, out: Path, data_root: Path) -> Path:
        """Return the validation images' COCO file."""
        own = out / self.ann_file
        return own if own.is_file() else data_root / self.ann_file

    def folder(self, out: Path) -> Path:
        """Return the run's folder in the benchmark's."""
        return run_folder(out, self.contestant, self.seed, self.part)

    def to_json(self) -> dict[str, Any]:
        """Return what the file holds."""
        return vars(self) | {"curve": [list(point) for point in self.curve]}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> QualityRun:
        """Return what :meth:`to_json` gave."""
        return cls(**value | {"curve": tuple((float(x), float(y)) for x, y in value["curve"])})


@HOOKS.register_module()
class CpuClockHook(Hook):
    """Write ``clock.json`` when training ends: processor seconds of each iteration, and mAP against their sum.

    An iteration counts with the loading of its batch; validations do not count.
    """

    priority = "VERY_LOW"

    def __init__(self) -> None:
        self._iterations: list[float] = []
        self._curve: list[tuple[float, float]] = []
        self._last = 0.0

    def before_train(self, runner: Runner) -> None:
        """Start the clock."""
        self._last = time.process_time()

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict[str, Any] | None = None
    ) -> None:
        """Count an iteration."""
        now = time.process_time()
        self._iterations.append(now - self._last)
        self._last = now

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Note the mAP, and leave the validation's time out."""
        self._curve.append((sum(self._iterations), float((metrics or {}).get("bbox/mAP", 0.0))))
        self._last = time.process_time()

    def after_train(self, runner: Runner) -> None:
        """Write the file."""
        write_json(Path(runner.work_dir) / CLOCK_FILE, {"iterations": self._iterations, "curve": self._curve})


def run_quality(
    contestants: Sequence[Contestant],
    parts: Sequence[Part],
    out: Path,
    *,
    minutes: float,
    iterations: int | None = None,
    seeds: Sequence[int],
    threads: int,
    validations: int = 4,
    cfg_options: Sequence[str] = (),
    yolo: YoloSettings | None = None,
    folds: tuple[int, int] | None = None,
    report: Callable[[str], None] = lambda line: None,
) -> list[QualityRun]:
    """Train every contestant with every seed on every part, seed by seed, and return the runs.

    A run that ``out`` holds already is not repeated, so that a broken-off benchmark goes on where it was. One of other
    data, starting weights or settings is refused before anything is trained.

    Args:
        contestants: at least one; names must differ.
        parts: the prepared folder, or a fold of it each.
        out: one folder a run, with ``run.json`` and ``detections.json``.
        minutes: of processor time, summed over threads, for each training.
        iterations: of each training, in place of what fits into ``minutes``.
        seeds: of weights, data order and augmentation.
        threads: of torch.
        validations: during a training, the last at its end; their time does not count.
        cfg_options: put into every config.
        yolo: how ultralytics' contestants are trained.
        folds: number and seed of the folds that ``parts`` are of.
        report: gets a line when a run begins and when it ends.

    Raises:
        UsageError: a contestant is named twice, a YOLO has no settings, ``out`` holds runs of another budget, other
            data, weights or settings, or another process trains the same there.
        DatasetError: there is no box to validate on.
    """
    names = [contestant.name for contestant in contestants]
    folders = {run_folder(out, name, 0) for name in names}
    if len(folders) < len(names):
        raise UsageError(
            f"{', '.join(names)}: a contestant is named twice, or two would share a folder; name each once."
        )
    outsiders = [contestant.name for contestant in contestants if contestant.is_yolo]
    if outsiders and (yolo is None or iterations is not None):
        remedy = "pass --yolo-python" if yolo is None else "pass --minutes in place of --iterations"
        raise UsageError(f"{outsiders[0]}: trains for minutes, in an environment of its own; {remedy}.")
    budget = {"minutes": minutes, "iterations": iterations, "cfg_options": list(cfg_options), "threads": threads}
    _check_budget(out, budget | ({} if folds is None else {"folds": list(folds)}))
    torch.set_num_threads(threads)
    training = _Training(parts[0], out, cfg_options, validations, yolo)
    inputs = {
        (each.name, part.folder): replace(training, part=part).inputs(each) for each in contestants for part in parts
    }
    for (name, fold), given in inputs.items():
        for done in (run_folder(out, name, seed, fold) / RESULT_FILE for seed in seeds):
            if done.is_file():
                check_inputs(done, _read_run(done).inputs, given)
    if iterations is None:
        pace = _measure_pace(contestants, training, report)
        lengths = {each.name: max(validations, round(60 * minutes / pace[each.pace_name])) for each in contestants}
    else:
        lengths = dict.fromkeys(names, max(validations, iterations))
    runs = []
    for turn, (seed, part) in enumerate(itertools.product(seeds, parts)):
        # Who comes first changes, since a machine can become busier.
        first = turn % len(contestants)
        for contestant in (*contestants[first:], *contestants[:first]):
            folder = run_folder(out, contestant.name, seed, part.folder)
            done = folder / RESULT_FILE
            place = part.folder.replace("_", " ").split("/") if part.folder else []
            words = ", ".join([contestant.name, *place, f"seed {seed}"])
            with sole_use(folder.parent, _ELSEWHERE):
                if not done.is_file():
                    report(f"{words}: training")
                    run = replace(training, part=part).run(contestant, folder, lengths[contestant.name], seed)
                    run = replace(run, inputs=inputs[contestant.name, part.folder])
                    write_json(done, run.to_json(), indent=2)
            run = _read_run(done)
            report(
                f"{words}: mAP {run.curve[-1][1]:.3f} after {run.iterations} iterations, {run.cpu_s / 60:.1f} minutes"
            )
            runs.append(run)
    return runs


def yolo_settings(
    contestants: Sequence[Contestant],
    python: Path | None,
    threads: int,
    cfg_options: Sequence[str],
    options: Sequence[str],
) -> YoloSettings | None:
    """Return how ultralytics' contestants are trained: image and batch size are those of the first recipe of ours.

    Raises:
        UsageError: an option is not KEY=VALUE.
    """
    if python is None:
        return None
    named = next((each.recipe for each in contestants if not each.is_yolo), "retina_small")
    config = load_config(named, load_from="none", cfg_options=cfg_options)
    resize = next(step for step in config.val_dataloader.dataset.pipeline if step["type"] == "Resize")
    extra = {}
    for option in options:
        key, found, value = option.partition("=")
        if not found:
            raise UsageError(f"--yolo-option {option}: expected KEY=VALUE, such as batch=16.")
        try:
            extra[key] = json.loads(value)
        except json.JSONDecodeError:
            extra[key] = value
    return YoloSettings(python, max(resize["scale"]), config.train_dataloader.batch_size, threads, extra)


def run_folder(out: Path, contestant: str, seed: int, part: str = "") -> Path:
    """Return where a training of ``contestant`` with ``seed`` on a part of the data is kept."""
    return out / contestant.replace("/", "_").removesuffix(".py") / part / f"seed_{seed}"


def _read_run(path: Path) -> QualityRun:
    return QualityRun.from_json(json.loads(path.read_text(encoding="utf-8")))


def _check_budget(out: Path, budget: dict[str, Any]) -> None:
    path = out / "budget.json"
    if path.is_file():
        found = json.loads(path.read_text(encoding="utf-8"))
        other = [key for key in {**found, **budget} if found.get(key) != budget.get(key)]
        if other:
            known, asked = (", ".join(f"{key} {of.get(key, 'unstated')}" for key in other) for of in (found, budget))
            raise UsageError(f"{out}: holds runs with {known}, asked for is {asked}; name another folder by --out.")
    out.mkdir(parents=True, exist_ok=True)
    write_json(path, budget)


@dataclass(frozen=True)
class _Training:
    """Settings of a contestant's training besides its length and seed."""

    part: Part
    out: Path
    cfg_options: Sequence[str]
    validations: int
    yolo: YoloSettings | None

    def seconds(self, contestant: Contestant, folder: Path) -> float:
        """Return the processor seconds of an iteration."""
        length = _WARM_UP_ITERATIONS + _TIMED_ITERATIONS
        if contestant.is_yolo:
            seconds = self._yolo(contestant, folder, 0, 10 * length, length)
        else:
            labels = contestant.labels[0]
            config = replace(contestant, start=None).config(self.part.data_root, folder, self.cfg_options, labels)
            trial = _prepared(config, seed=0)
            trial.train_cfg.update(max_iters=length)
            trial.val_cfg = trial.val_dataloader = trial.val_evaluator = None
            seconds = _run(trial)["iterations"]
        shutil.rmtree(folder, ignore_errors=True)
        return float(np.median(seconds[_WARM_UP_ITERATIONS:]))

    def inputs(self, contestant: Contestant) -> dict[str, str]:
        """Return hashes of what a training is given, whatever its length and seed.

        Raises:
            UsageError: the starting weights are not there.
            ConfigError: there is no such recipe or switch.
            DatasetError: no box is validated on, so that no score would be defined.
        """
        root = self.part.data_root
        if contestant.is_yolo:
            files, start = list(self._ann_files(contestant)), RANDOM
        else:
            configs = self._configs(contestant)
            loaders = (loader for config in configs for loader in (config.train_dataloader, config.val_dataloader))
            files = [annotated_parts(loader)[0]["ann_file"] for loader in loaders]
            start = hash_start(configs[0], contestant.name)
        validated = [root / file for file in files[1::2]]
        if all(box.get("iscrowd") for path in validated for box in read_coco(path)["annotations"]):
            raise DatasetError(
                f"{validated[0]}: holds no box, so no training could be scored on it; divide the data anew by "
                "tools/prepare_data.py split --split stratified, or take fewer --folds or another --fold-seed."
            )
        return {"data": hash_data(root, files), "start": start, "recipe": self.settings(contestant)}

    def settings(self, contestant: Contestant) -> str:
        """Return the hash of a contestant's settings, without its start."""
        if contestant.is_yolo:
            assert self.yolo is not None, "checked by run_quality"
            return hash_settings(vars(self.yolo) | {"python": None, "model": contestant.recipe})
        return hash_settings([recipe_settings(config) for config in self._configs(contestant)])

    def _configs(self, contestant: Contestant) -> list[Config]:
        return [
            contestant.config(self.part.data_root, self.out, self.cfg_options, labels) for labels in contestant.labels
        ]

    def run(self, contestant: Contestant, folder: Path, iterations: int, seed: int) -> QualityRun:
        """Return the finished training."""
        shutil.rmtree(folder, ignore_errors=True)
        root = self.part.data_root
        several = len(contestant.labels) > 1
        folders = [folder / str(labels) if several else folder for labels in contestant.labels]
        if contestant.is_yolo:
            seconds = self._yolo(contestant, folder, seed, iterations)
            ann_files = [self._ann_files(contestant)[1]]
            truth = read_coco(root / ann_files[0])
            found = read_detections(folder / "detections.json", truth)
            mean_ap = float(point_values(match_all(truth, found))["mean_ap"] or 0.0)
            clocks: list[dict[str, Any]] = [{"iterations": seconds, "curve": [[sum(seconds), mean_ap]]}]
            iterations = len(seconds)
        else:
            clocks, ann_files = [], []
            for labels, own in zip(contestant.labels, folders, strict=True):
                config = _prepared(contestant.config(root, own, self.cfg_options, labels), seed)
                length = iterations // len(folders)
                config.train_cfg.update(max_iters=length, val_interval=-(-length // self.validations))
                config.val_share = None
                clocks.append(_run(config))
                ann_files.append(annotated_parts(config.val_evaluator)[0]["ann_file"])
        cpu_s = sum(sum(clock["iterations"]) for clock in clocks)
        ann_file, curve = ann_files[0], clocks[0]["curve"]
        if several:
            curve = [[cpu_s, _unite(folder, folders, [root / file for file in ann_files])]]
            ann_file = os.path.relpath(folder / "val.json", self.out)
        elif self.part.folder:
            ann_file = os.path.relpath(root / ann_file, self.out)
        return QualityRun(
            contestant=contestant.name,
            seed=seed,
            iterations=iterations,
            cpu_s=cpu_s,
            curve=tuple((float(x), float(y)) for x, y in curve),
            ann_file=ann_file,
            part=self.part.folder,
        )

    def _yolo(
        self, contestant: Contestant, folder: Path, seed: int, iterations: int, stop_after: int | None = None
    ) -> list[float]:
        assert self.yolo is not None, "checked by run_quality"
        return train_yolo(
            contestant.recipe,
            self.yolo,
            self.part.data_root,
            self._ann_files(contestant),
            folder,
            iterations=iterations,
            seed=seed,
            stop_after=stop_after,
        )

    def _ann_files(self, contestant: Contestant) -> tuple[str, str]:
        """Return the files to train and validate on, as a recipe of ours finds them."""
        config = load_config("retina_small", data_root=self.part.data_root, labels=contestant.labels[0])
        train, val = (annotated_parts(loader)[0] for loader in (config.train_dataloader, config.val_dataloader))
        return train["ann_file"], val["ann_file"]


def _measure_pace(
    contestants: Sequence[Contestant], training: _Training, report: Callable[[str], None]
) -> dict[str, float]:
    """Return each contestant's processor seconds per iteration, from its ``pace.json`` or measured now.

    Contestants are timed in turn, and the faster of their rounds counts: what else the machine does makes an iteration
    slower, never faster. What was measured with other settings is measured again.
    """
    wanted = {each.pace_name: each for each in contestants}
    settings = {name: training.settings(replace(each, start=None)) for name, each in wanted.items()}
    # One file per contestant: two runs in one folder, of other contestants, would each replace what the other measured.
    files = {name: run_folder(training.out, name, 0).parent / PACE_FILE for name in wanted}
    known = {name: json.loads(path.read_text(encoding="utf-8")) for name, path in files.items() if path.is_file()}
    missing = {name: each for name, each in wanted.items() if known.get(name, {}).get("settings") != settings[name]}
    rounds: dict[str, list[float]] = {name: [] for name in missing}
    for number in range(_TIMED_ROUNDS):
        for name, contestant in missing.items():
            folder = files[name].with_name(f"trial_{number}")
            with sole_use(folder.parent, _ELSEWHERE):
                rounds[name].append(training.seconds(contestant, folder))
    for name, seconds in rounds.items():
        known[name] = {"seconds": min(seconds), "settings": settings[name]}
        write_json(files[name], known[name], indent=2)
        report(f"{name}: {min(seconds):.3f} s an iteration")
    return {name: known[name]["seconds"] for name in wanted}


def _unite(folder: Path, folders: Sequence[Path], ann_files: Sequence[Path]) -> float:
    """Write the united detections and validation files of several detectors, and return their mAP."""
    truths = [read_coco(file) for file in ann_files]
    parts = [read_detections(own / "detections.json", truth) for own, truth in zip(folders, truths, strict=True)]
    truth, found = unite(truths, parts)
    write_coco(folder / "val.json", truth)
    write_detections(folder / "detections.json", sort_detections(found))
    return float(point_values(match_all(truth, found))["mean_ap"] or 0.0)


def _prepared(config: Config, seed: int) -> Config:
    config.update(randomness={"seed": seed}, log_level="WARNING")
    config.visualizer.name = config.work_dir  # mmengine keeps one visualizer for each name, with the folder it had
    # In the process itself, so that the clock sees it.
    for loader in (config.train_dataloader, config.val_dataloader):
        loader.update(num_workers=0, persistent_workers=False)
    for evaluator in annotated_parts(config.val_evaluator):
        evaluator["out_dir"] = config.work_dir
    config.default_hooks.checkpoint = {
        "type": "CheckpointHook",
        "by_epoch": False,
        "interval": 10**9,
        "save_last": True,
    }
    config.custom_hooks = [*config.get("custom_hooks", []), {"type": "CpuClockHook"}]
    return config


def _run(config: Config) -> dict[str, Any]:
    train(config)
    return dict(json.loads((Path(config.work_dir) / CLOCK_FILE).read_text(encoding="utf-8")))
