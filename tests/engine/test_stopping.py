"""Trainings whose loss or weights are no longer finite: they stop in one sentence and leave only finite checkpoints."""

import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import PreparedFolder
from mmdet.models.detectors import RetinaNet
from scipy.optimize import linear_sum_assignment
from torch import nn
from training_runs import error_of, train_here

from cxr_mmdet.engine.stopping import NonFiniteHook, first_non_finite
from cxr_mmdet.errors import CheckpointError, TrainingError

NAN = math.nan
CHECKPOINTS = ["default_hooks.checkpoint.interval=1", "train_cfg.max_iters=6", "train_cfg.val_interval=1"]


def test_a_learning_rate_that_is_too_high(prepared_folder: PreparedFolder, tmp_path: Path):
    """Before, it ended with exit code 0 and a best checkpoint full of NaN."""
    # Without warm-up; the first step makes weights of 1e18, the second loss overflows.
    options = [*CHECKPOINTS, "optim_wrapper.optimizer.lr=1e18", "param_scheduler=None", "optim_wrapper.clip_grad=None"]
    message = error_of(train_here(prepared_folder(), tmp_path / "run", *options, code=1))
    assert "training stopped in iteration 2 (learning rate 1e+18, images train" in message
    assert "go on from iter_1.pth by --resume with a lower learning rate, as in --cfg-options" in message
    assert (tmp_path / "run" / "last_checkpoint").read_text().endswith("iter_1.pth")
    saved = sorted(path.name for path in (tmp_path / "run").glob("*.pth"))
    assert saved == ["best_bbox_mAP_50_iter_1.pth", "iter_1.pth"]
    assert (tmp_path / "run" / "curves.png").is_file()
    for name in saved:
        state = torch.load(tmp_path / "run" / name, weights_only=False)["state_dict"]
        assert all(value.isfinite().all() for value in state.values())


class Training:
    """As much of a Runner as the hook asks for; the model's one weight is the step's to spoil."""

    def __init__(self, scaler: object = None):
        self.model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
        optimizer = SimpleNamespace(defaults={"lr": 0.5})
        self.optim_wrapper = SimpleNamespace(optimizer=optimizer, get_lr=lambda: {"lr": [0.5]})
        if scaler is not None:
            self.optim_wrapper.loss_scaler = scaler
        from mmengine.hooks import CheckpointHook

        self.hooks = [CheckpointHook(by_epoch=False)]
        self._resume, self._load_from, self.work_dir, self.iter = False, None, "run", 0
        self.hook = NonFiniteHook()

    def step(self, loss: float) -> None:
        batch = {"data_samples": [SimpleNamespace(img_path=f"images/p{self.iter}.png")]}
        self.hook.after_train_iter(self, self.iter, batch, {"loss": torch.tensor(loss), "acc": NAN})
        self.iter += 1


def test_a_loss_that_is_not_finite_stops_where_it_repeats():
    training = Training()
    for loss in (1.0, NAN, 1.0, math.inf):
        training.step(loss)  # once, with finite weights: gradients are being accumulated, or the loss has none
    with pytest.raises(TrainingError, match=r"iteration 5 \(learning rate 0.5, images p4\).*not finite.*start again"):
        training.step(NAN)


def test_weights_that_are_not_finite_stop_at_once():
    training = Training()
    training.step(1.0)
    with torch.no_grad():
        training.model[0].bias[1] = math.inf
    with pytest.raises(TrainingError, match=r"iteration 2 .*non-finite values to the weights \(first 0.bias\)"):
        training.step(1.0)


def test_steps_that_a_gradient_scaler_skips_are_normal():
    """A GradScaler begins at 2**16 and halves its scale until float16 holds the gradients."""
    scale = [2.0**16]
    training = Training(SimpleNamespace(get_scale=lambda: scale[0]))
    for _ in range(20):
        scale[0] /= 2
        training.step(1.0)
    for _ in range(19):
        training.step(NAN)
    with pytest.raises(TrainingError, match="not finite, 20 times in a row"):
        training.step(NAN)


def test_gradients_that_no_scale_makes_finite():
    training = Training(SimpleNamespace(get_scale=lambda: 2.0**-15))
    with pytest.raises(TrainingError, match="not finite at any scale"):
        training.step(1.0)


def test_statistics_of_norms_count_and_frozen_weights_are_looked_at_once():
    training = Training()
    training.model[1].running_var[0] = NAN
    assert first_non_finite(training.model) == "1.running_var"
    training = Training()
    training.model[0].weight.requires_grad_(False)[0, 0] = NAN
    assert first_non_finite(training.model, trained_only=True) is None
    with pytest.raises(CheckpointError, match=r"run: its weights are not finite \(first 0.weight\)"):
        training.hook.before_train(training)


def test_matching_that_raises_at_nan(monkeypatch: pytest.MonkeyPatch, prepared_folder: PreparedFolder, tmp_path: Path):
    """DINO's matching by SciPy raises within the forward pass; before, that was a traceback."""

    def match(*_: object, **__: object) -> None:
        linear_sum_assignment([[NAN]])

    monkeypatch.setattr(RetinaNet, "loss", match)
    message = error_of(train_here(prepared_folder(), tmp_path / "run", code=1))
    assert "training stopped in iteration 1" in message
    assert "images train" in message
    assert "the detector's outputs are not finite" in message
