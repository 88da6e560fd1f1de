"""Small trainings with switches on, as users start them, held against the same trainings without."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from mmdet.visualization import DetLocalVisualizer
from mmengine.logging import MessageHub, MMLogger
from shared_builds import shared
from training_runs import TINY, differing, error_of, train_here, weights
from typer.testing import CliRunner

from cxr_mmdet.cli import test, train
from cxr_mmdet.inference.checkpoint import load_detector

if TYPE_CHECKING:
    from conftest import PreparedFolder

OPTIONS = [
    *TINY,
    "model.test_cfg.score_thr=0.0",
    "train_dataloader.num_workers=0",
    "train_dataloader.persistent_workers=False",
    "val_dataloader.num_workers=0",
    "val_dataloader.persistent_workers=False",
    "test_dataloader.num_workers=0",
    "test_dataloader.persistent_workers=False",
    "default_hooks.checkpoint.max_keep_ckpts=20",
    "default_hooks.checkpoint.interval=1",
    "train_cfg.max_iters=6",
    "train_cfg.val_interval=6",
]
NOTHING_FOUND = "model.test_cfg.score_thr=1.0"
"""So that every validation scores 0 and none betters the first."""


EVERY_SECOND = ("train_cfg.val_interval=2", "train_cfg.max_iters=20", NOTHING_FOUND)
PATIENCE = (*EVERY_SECOND, "default_hooks.early_stopping.patience=2")
SHARED = {"plain": ((), ()), "ema": (("--with", "ema"), ()), "stopped": (("--with", "early_stopping"), PATIENCE)}
"""Command line and options of the runs that several tests begin with."""


class Runs:
    """Trains in a folder of its own, on one prepared folder."""

    def __init__(self, root: Path, folder: Path) -> None:
        self.root, self.folder = root, folder

    def train(self, name: str, *arguments: str, options: tuple[str, ...] = (), code: int = 0) -> str:
        """Train into the folder ``name`` and return what the command said."""
        work_dir = ["--data-root", str(self.root), "--work-dir", str(self.folder / name)]
        return self._invoke(train.app, ["retina_phantom", *work_dir, *arguments], options, code)

    def copy(self, name: str, to: str) -> None:
        """Copy a run of SHARED into the folder ``to``."""
        arguments, options = SHARED[name]
        made = shared(f"run-{name}", lambda path: self.train(str(path), *arguments, options=options))
        shutil.copytree(made, self.folder / to)

    def score(self, checkpoint: Path, *arguments: str) -> dict:
        """Return the metrics of a checkpoint."""
        out = ["--data-root", str(self.root), "--out", str(self.folder / "scores")]
        self._invoke(test.app, ["retina_phantom", str(checkpoint), *out, *arguments], (), 0)
        return json.loads((self.folder / "scores" / "metrics.json").read_text())

    def checkpoint(self, name: str, iteration: int) -> Path:
        return self.folder / name / f"iter_{iteration}.pth"

    def log(self, name: str) -> str:
        """Return the log of the newest run in the folder."""
        newest = max((self.folder / name).glob("*/*.log"))
        return newest.read_text()

    def scalars(self, name: str) -> list[dict]:
        """Return what was logged by number, of all runs in the folder."""
        files = sorted((self.folder / name).glob("*/vis_data/scalars.json"))
        return [json.loads(line) for file in files for line in file.read_text().splitlines()]

    def _invoke(self, app, arguments: list[str], options: tuple[str, ...], code: int) -> str:
        for kept in (MMLogger, MessageHub, DetLocalVisualizer):  # mmengine's, from one run in a process to the next
            kept._instance_dict.clear()
        result = CliRunner().invoke(app, [*arguments, "--cfg-options", *OPTIONS, *options])
        assert result.exit_code == code, (result.output, result.stderr[-2000:], result.exception)
        return result.output


@pytest.fixture
def runs(prepared_folder: PreparedFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runs:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    return Runs(prepared_folder(), tmp_path)


class TestAveragedWeights:
    def test_the_average_is_what_is_saved_and_training_does_not_notice(self, runs: Runs):
        """The oracle averages the checkpoints of a run without the switch: step t moves by 25 / (25 + t)."""
        runs.copy("plain", "plain")
        runs.copy("ema", "ema")
        raw = [weights(runs.checkpoint("plain", step)) for step in range(1, 7)]
        average = dict(raw[0])
        for step, state in enumerate(raw[1:], start=1):
            share = 25 / (25 + step)
            for name, value in average.items():
                if value.is_floating_point():
                    average[name] = torch.lerp(value, state[name], share)
        saved = weights(runs.checkpoint("ema", 6))
        for name, value in average.items():
            if value.is_floating_point():
                torch.testing.assert_close(saved[name], value)
        moving = [name for name in saved if not torch.equal(saved[name], raw[-1][name])]
        assert {"backbone.conv1.weight", "backbone.bn1.running_mean"} <= set(moving)

        behind = weights(runs.checkpoint("ema", 6), "ema_state_dict")
        kept = {name.removeprefix("module."): value for name, value in behind.items() if name != "steps"}
        assert differing(raw[-1], kept) == []

    def test_validated_saved_scored_and_predicted_with_the_average(self, runs: Runs):
        runs.copy("ema", "ema")
        last = runs.checkpoint("ema", 6)
        (best,) = (runs.folder / "ema").glob("best_*.pth")
        assert differing(weights(last), weights(best)) == []
        assert differing(weights(last), load_detector(str(best)).model.state_dict()) == []

        (validated,) = [line for line in runs.scalars("ema") if "bbox/mAP_50" in line]
        scores = runs.score(best)
        raw = runs.folder / "raw.pth"
        behind = weights(last, "ema_state_dict")
        kept = {name.removeprefix("module."): value for name, value in behind.items() if name != "steps"}
        torch.save({"state_dict": kept, "meta": {}}, raw)
        other = runs.score(raw)
        assert scores != other
        for logged, name in {"bbox/mAP_50": "mean_ap_50", "bbox/mAP_40": "voc_mean_ap_40"}.items():
            assert validated[logged] == pytest.approx(scores[name])

    def test_a_run_that_averaged_is_not_resumed_without(self, runs: Runs):
        runs.copy("ema", "ema")
        said = runs.train("ema", "--resume", code=1)
        assert "error: " in said
        assert "resume it --with ema" in said


class TestEarlyStopping:
    def test_stops_keeps_the_last_weights_and_draws_curves(self, runs: Runs):
        """Validations after 2 (the best: 0), 4 and 6 iterations; the last checkpoint but for stopping would be 5's."""
        said = runs.train("run", "--with", "early_stopping", options=(*PATIENCE, "default_hooks.checkpoint.interval=5"))
        assert "run/iter_6.pth" in said.replace("\n", "")
        assert runs.checkpoint("run", 6).is_file()
        assert (runs.folder / "run" / "curves.png").is_file()
        assert (
            "Stopped early after 6 of 20 iterations: in 2 validations bbox/mAP_50 has not passed 0.0000, reached "
            "after 2 iterations." in runs.log("run")
        )

    def test_off_it_does_not_stop(self, runs: Runs):
        runs.train("run", options=(*EVERY_SECOND, "train_cfg.max_iters=8"))
        assert runs.checkpoint("run", 8).is_file()

    def test_a_run_killed_before_a_validation_stops_where_it_would_have(self, runs: Runs):
        """The checkpoint of iteration 4 is saved before the validation, which a resumed run then does."""
        runs.copy("stopped", "whole")
        self.keep("whole", "killed", 4, runs)
        runs.train("killed", "--with", "early_stopping", "--resume", options=PATIENCE)
        assert "Validating after 4 iterations" in runs.log("killed")
        assert "Stopped early after 6 of 20" in runs.log("killed")
        assert differing(*(weights(runs.checkpoint(name, 6)) for name in ("whole", "killed"))) == []

    def test_a_validation_that_was_saved_is_not_done_again(self, runs: Runs):
        """The validation after 2 iterations was the best so far, so its iteration was saved once more, after it."""
        runs.copy("stopped", "whole")
        self.keep("whole", "killed", 2, runs)
        runs.train("killed", "--with", "early_stopping", "--resume", options=PATIENCE)
        assert "Validating after" not in runs.log("killed")
        assert "Stopped early after 6 of 20" in runs.log("killed")

    def test_a_stopped_run_is_resumed_with_more_patience_only(self, runs: Runs):
        runs.copy("stopped", "run")
        runs.train("run", "--with", "early_stopping", "--resume", options=PATIENCE)
        assert "Stopped early after 6 of 20" in runs.log("run")
        assert not runs.checkpoint("run", 7).exists()
        more = (*EVERY_SECOND, "default_hooks.early_stopping.patience=3")
        runs.train("run", "--with", "early_stopping", "--resume", options=more)
        assert "Stopped early after 8 of 20" in runs.log("run")

    def test_a_config_that_picks_no_best_checkpoint(self, runs: Runs):
        said = runs.train(
            "run", "--with", "early_stopping", options=("default_hooks.checkpoint.save_best=None",), code=2
        )
        assert "picks no best checkpoint by validation" in said

    @staticmethod
    def keep(source: str, target: str, iteration: int, runs: Runs) -> None:
        """Copy what a run that was killed after this iteration would have left."""
        folder = runs.folder / target
        folder.mkdir()
        path = Path(shutil.copy(runs.checkpoint(source, iteration), folder))
        (folder / "last_checkpoint").write_text(str(path))


def test_a_validation_missed_at_the_end_still_picks_a_best_checkpoint(runs: Runs):
    """Killed while validating after the last iteration, a run used to be finished when resumed, without a best."""
    runs.copy("plain", "whole")
    TestEarlyStopping.keep("whole", "killed", 6, runs)
    path = runs.checkpoint("killed", 6)
    checkpoint = torch.load(path, weights_only=False)
    checkpoint["validated"] = 0
    for key in ("best_score", "best_ckpt"):
        del checkpoint["message_hub"]["runtime_info"][key]
    torch.save(checkpoint, path)
    runs.train("killed", "--resume")
    assert [path.name for path in (runs.folder / "killed").glob("best_*")] == ["best_bbox_mAP_50_iter_6.pth"]


def test_gradients_of_two_iterations_make_one_update(runs: Runs):
    options = ("optim_wrapper.accumulative_counts=2", "optim_wrapper.optimizer.lr=0.1", "train_cfg.max_iters=4")
    runs.train("run", "--with", "accumulate", options=options)
    states = [weights(runs.checkpoint("run", step))["bbox_head.retina_cls.weight"] for step in range(1, 5)]
    assert torch.equal(states[1], states[2])
    assert not torch.equal(states[0], states[1])
    assert not torch.equal(states[2], states[3])


def test_a_frozen_backbone_stays_as_it_was_and_the_head_learns(runs: Runs):
    runs.train("start", options=("train_cfg.max_iters=1",))
    start = runs.checkpoint("start", 1)
    runs.train("run", "--with", "frozen_backbone,ema", "--load-from", str(start))
    moved = differing(weights(start), weights(runs.checkpoint("run", 6)))
    assert not [name for name in moved if name.startswith("backbone.")]
    assert [name for name in moved if name.startswith("bbox_head.")]
    assert "100.0% of the model's values" in runs.log("run")


def test_mixed_precision_on_a_cpu_learns_what_float32_does(runs: Runs):
    runs.copy("plain", "exact")
    runs.train("amp", "--amp")
    losses = [[line["loss"] for line in runs.scalars(name) if "loss" in line] for name in ("exact", "amp")]
    assert len(losses[0]) == 6
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], rel=0.03)
    assert {value.dtype for value in weights(runs.checkpoint("amp", 6)).values()} == {torch.float32, torch.int64}


def test_every_line_and_the_end_of_training_tell_speed_and_memory(runs: Runs):
    runs.copy("plain", "run")
    lines = [line for line in runs.scalars("run") if "loss" in line]
    assert len(lines) == 6
    for line in lines:
        assert line["images_per_second"] == pytest.approx(2 / line["time"])
        assert 0 <= line["data_share"] <= 1
        assert 100 < line["memory"] < 100_000
    log = runs.log("run")
    assert log.count("images/s: ") == 6
    assert "Trained 6 iterations, 12 images, in 0:00:0" in log
    assert "MiB, without the data workers." in log


def test_all_switches_together(runs: Runs):
    every = "ema,early_stopping,accumulate,clip_gradients,whole_backbone"
    said = runs.train("run", "--amp", "--with", every, options=("optim_wrapper.accumulative_counts=2",))
    assert "best checkpoint" in said
    assert "ema_state_dict" in torch.load(runs.checkpoint("run", 6), weights_only=False)
    assert sum("grad_norm" in line for line in runs.scalars("run")) >= 3


@pytest.mark.parametrize(("switch", "package"), [("wandb", "wandb"), ("mlflow", "mlflow")])
def test_a_tracker_whose_package_is_missing_is_one_sentence(prepared_folder, tmp_path, monkeypatch, switch, package):
    DetLocalVisualizer._instance_dict.clear()  # one for each run, not for each process
    monkeypatch.setitem(sys.modules, package, None)
    said = train_here(prepared_folder(), tmp_path / "run", code=2, more=("--with", switch))
    assert f'not installed (Please run "pip install {package}"' in error_of(said)
    assert "install it, or remove the back end from the config" in error_of(said)


def test_a_training_with_phantoms_goes_on_as_the_uninterrupted_one(
    runs: Runs, phantom_cache: list[str], monkeypatch: pytest.MonkeyPatch
):
    inner = "train_dataloader.dataset."  # which the switch wraps
    deeper = [option.replace(inner, f"{inner}dataset.") for option in OPTIONS]
    monkeypatch.setattr(sys.modules[__name__], "OPTIONS", deeper)
    options = (*phantom_cache, "train_cfg.max_iters=4")
    runs.train("whole", "--with", "phantoms", options=options)
    assert "Training with phantoms: 12 of 128 px" in runs.log("whole")
    (runs.folder / "half").mkdir()
    shutil.copy(runs.checkpoint("whole", 2), runs.folder / "half")
    runs.train("half", "--with", "phantoms", "--resume", options=options)
    assert differing(weights(runs.checkpoint("whole", 4)), weights(runs.checkpoint("half", 4))) == []
