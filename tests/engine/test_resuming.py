"""Resumed runs: copied, moved, killed at a bad moment, trained further, and with other settings."""

import copy
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import PreparedFolder
from mmengine.optim import CosineAnnealingLR, LinearLR, MultiStepLR, OptimWrapper
from torch import nn
from training_runs import error_of, train_here

from cxr_mmdet.engine.resuming import ResumeHook, newest_checkpoint
from cxr_mmdet.errors import CheckpointError, ConfigError

# Checkpoints after iterations 2 and 4; the second iteration's validation picks the best.
SHORT = ["train_cfg.max_iters=4", "train_cfg.val_interval=2", "default_hooks.checkpoint.interval=2"]


def notes(path: Path) -> dict:
    return torch.load(path, weights_only=False)["message_hub"]["runtime_info"]


def rate(path: Path) -> float:
    return torch.load(path, weights_only=False)["optimizer"]["param_groups"][0]["lr"]


def test_a_copied_run_trained_further(prepared_folder: PreparedFolder, tmp_path: Path):
    """Before, a copy went on from the original's file, removed its best checkpoint, and kept the ended schedule."""
    root, original, copied = prepared_folder(), tmp_path / "original", tmp_path / "copy"
    train_here(root, original, *SHORT)
    shutil.copytree(original, copied)
    before = {path.name: path.read_bytes() for path in original.glob("*.pth")}
    (copied / "iter_4.pth").unlink()  # so that the copy's newest is another than the original's

    stderr = train_here(root, copied, *SHORT, "train_cfg.max_iters=8", more=("--resume",))
    assert "Resumed with other settings (CosineAnnealingLR.T_max 4 -> 8, CosineAnnealingLR.end 4 -> 8)" in stderr
    assert "iter_2.pth" in stderr
    assert {path.name: path.read_bytes() for path in original.glob("*.pth")} == before
    assert Path(notes(copied / "iter_8.pth")["best_ckpt"]).parent == copied
    assert len(list(copied.glob("best_*.pth"))) == 1
    assert Path((copied / "last_checkpoint").read_text()) == copied / "iter_8.pth"

    message = error_of(train_here(root, copied, *SHORT, code=2, more=("--resume",)))
    assert "the run has trained 8 iterations, train_cfg.max_iters is 4; ask for more iterations" in message


class TestNewest:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        for number in (2, 10, 9):
            torch.save({}, tmp_path / f"iter_{number}.pth")
        torch.save({}, tmp_path / "best_bbox_mAP_50_iter_11.pth")
        return tmp_path

    @pytest.mark.parametrize("note", [None, "", "\n", "/elsewhere/iter_11.pth", "iter_12.pth"])
    def test_without_a_note_that_helps_it_is_the_highest_iteration(self, folder: Path, note):
        if note is not None:
            (folder / "last_checkpoint").write_text(note)
        assert newest_checkpoint(folder) == folder / "iter_10.pth"

    def test_a_note_is_followed_inside_the_folder(self, folder: Path, tmp_path_factory):
        original = tmp_path_factory.mktemp("original") / "iter_9.pth"
        torch.save({}, original)
        (folder / "last_checkpoint").write_text(str(original))
        assert newest_checkpoint(folder) == folder / "iter_9.pth"

    def test_a_file_that_a_kill_cut_is_passed_over(self, folder: Path):
        whole = (folder / "iter_10.pth").read_bytes()
        (folder / "iter_10.pth").write_bytes(whole[: len(whole) // 2])
        (folder / "last_checkpoint").write_text(str(folder / "iter_10.pth"))
        assert newest_checkpoint(folder) == folder / "iter_9.pth"

    def test_checkpoints_that_go_elsewhere(self, folder: Path, tmp_path_factory):
        run = tmp_path_factory.mktemp("runs") / folder.name
        run.mkdir()
        assert newest_checkpoint(run, str(folder.parent)) == folder / "iter_10.pth"

    def test_nothing(self, tmp_path: Path):
        assert newest_checkpoint(tmp_path) is None
        assert newest_checkpoint(tmp_path / "nowhere") is None


class Run:
    """As much of a Runner as the hook asks for, with the schedule of our recipes."""

    def __init__(self, lr: float = 0.1, length: int = 20, decay: float = 0.01, *, cosine: bool = True):
        from mmengine.hooks import CheckpointHook

        torch.manual_seed(0)
        self.layer = nn.Linear(2, 1)
        groups = [{"params": [self.layer.weight]}, {"params": [self.layer.bias], "weight_decay": 0.0}]
        self.optim_wrapper = OptimWrapper(torch.optim.AdamW(groups, lr=lr, weight_decay=decay))
        warm_up = LinearLR(self.optim_wrapper, 0.1, by_epoch=False, begin=0, end=5)
        rest = (
            CosineAnnealingLR(self.optim_wrapper, T_max=length, end=length, by_epoch=False)
            if cosine
            else MultiStepLR(self.optim_wrapper, milestones=[12], by_epoch=False)
        )
        self.param_schedulers = [warm_up, rest]
        self.max_iters, self.iter, self._resume, self._load_from, self.work_dir = length, 0, True, "run.pth", "run"
        self.hooks, self.logged = [CheckpointHook(by_epoch=False)], []
        self.logger = SimpleNamespace(warning=self.logged.append)

    def train(self, iterations: int) -> list[float]:
        rates = []
        for _ in range(iterations):
            rates.append(self.optim_wrapper.param_groups[0]["lr"])
            self.optim_wrapper.update_params(self.layer(torch.ones(1, 2)).sum())
            for scheduler in self.param_schedulers:
                scheduler.step()
            self.iter += 1
        return rates

    def save(self) -> dict:
        state = {"optimizer": self.optim_wrapper.state_dict(), "meta": {"iter": self.iter, "epoch": 0}}
        return copy.deepcopy(state | {"param_schedulers": [each.state_dict() for each in self.param_schedulers]})

    def resume(self, checkpoint: dict) -> "Run":
        ResumeHook().after_load_checkpoint(self, checkpoint)
        self.iter = checkpoint["meta"]["iter"]
        self.optim_wrapper.load_state_dict(checkpoint["optimizer"])
        for scheduler, state in zip(self.param_schedulers, checkpoint["param_schedulers"], strict=True):
            scheduler.load_state_dict(state)
        return self


@pytest.mark.parametrize("change", [{"length": 40}, {"lr": 0.03}, {"decay": 0.5}, {"cosine": False}])
@pytest.mark.parametrize("done", [3, 10, 20])
def test_a_resumed_run_has_the_learning_rates_of_a_run_with_its_config(change, done):
    first = Run()
    first.train(done)
    resumed = Run(**change).resume(first.save())
    whole = Run(**change)
    expected = whole.train(20)
    assert resumed.train(20 - done) == pytest.approx(expected[done:], rel=1e-12)
    assert resumed.optim_wrapper.param_groups[0]["weight_decay"] == change.get("decay", 0.01)
    assert resumed.optim_wrapper.param_groups[1]["weight_decay"] == 0
    assert len(resumed.logged) == 1
    assert "the schedule is rebuilt" in resumed.logged[0]


def test_an_unchanged_run_is_left_as_it_is():
    first = Run()
    first.train(7)
    saved = first.save()
    changed = copy.deepcopy(saved)
    resumed = Run()
    ResumeHook().after_load_checkpoint(resumed, changed)
    assert str(changed) == str(saved)
    assert resumed.logged == []


def test_moments_of_the_optimizer_stay():
    first = Run()
    first.train(7)
    moments = first.save()["optimizer"]["state"][0]["exp_avg"]
    resumed = Run(lr=0.5).resume(first.save())
    assert torch.equal(resumed.optim_wrapper.state_dict()["state"][0]["exp_avg"], moments)


def test_another_optimizer_is_refused():
    first = Run()
    first.train(2)
    saved = first.save()
    for group in saved["optimizer"]["param_groups"]:
        group["momentum"] = group.pop("betas")[0]
    with pytest.raises(CheckpointError, match=r"run\.pth: was trained with another optimizer"):
        Run().resume(saved)


def test_a_run_longer_than_the_config_is_refused():
    first = Run()
    first.train(20)
    with pytest.raises(ConfigError, match=r"has trained 20 iterations, train_cfg\.max_iters is 10"):
        Run(length=10).resume(first.save())


def test_another_batch_size_and_a_cut_checkpoint_are_told(prepared_folder: PreparedFolder, tmp_path: Path):
    root, run = prepared_folder(), tmp_path / "run"
    train_here(root, run, *SHORT)
    (run / "iter_4.pth").write_bytes((run / "iter_4.pth").read_bytes()[:1000])
    stderr = train_here(root, run, *SHORT, "train_dataloader.batch_size=3", more=("--resume",))
    assert "Resuming from iter_2.pth, but iter_4.pth, cut or damaged" in stderr.replace("\n", " ")
    assert "(2 -> 3 images per iteration): training goes on at image 6 of the random order" in stderr
    assert "had come to 4" in stderr

    for path in run.glob("iter_*.pth"):
        path.write_bytes(b"cut")
    message = error_of(train_here(root, run, *SHORT, code=1, more=("--resume",)))
    assert "holds no checkpoint to resume, but iter_2.pth, iter_4.pth, cut or damaged" in message
