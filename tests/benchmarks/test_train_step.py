import random

import numpy as np
import pytest
import torch
from mmdet.registry import MODELS
from mmengine.hooks import Hook

from benchmarks import train_step
from benchmarks.stock import OURS, STOCK
from benchmarks.train_step import PLAIN, Trainer, benchmark_switches, benchmark_train_step, make_batch
from cxr_mmdet.engine.config import load_config
from cxr_mmdet.engine.hooks import IterationSeedHook
from cxr_mmdet.errors import ConfigError

SIZE = 64


@pytest.fixture(scope="module")
def config():
    return load_config("retina_phantom", load_from="none")


def test_both_sides_start_from_the_same_weights_and_compute_the_same_losses(config):
    stock, ours = train_step._build_models(config)
    weights = ours.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in stock.state_dict().items())
    batch = make_batch(0, 2, SIZE, classes=5)
    losses = Trainer(ours, config.optim_wrapper).losses(batch)
    expected = Trainer(stock, config.optim_wrapper).losses(train_step._with_planes_copied(batch))
    assert losses.keys() == expected.keys()
    pairs = [pair for name in losses for pair in zip(losses[name], expected[name], strict=True)]
    assert pairs
    assert all(torch.equal(got, other) for got, other in pairs)


def test_one_iteration_moves_both_models_alike(config):
    stock, ours = train_step._build_models(config)
    before = {name: value.clone() for name, value in ours.state_dict().items()}
    batch = make_batch(0, 2, SIZE, classes=5)
    Trainer(ours, config.optim_wrapper).step(0, batch)
    Trainer(stock, config.optim_wrapper).step(0, train_step._with_planes_copied(batch))
    after, stock_after = ours.state_dict(), stock.state_dict()
    assert not torch.equal(after["bbox_head.retina_cls.weight"], before["bbox_head.retina_cls.weight"])
    assert all(torch.equal(after[name], stock_after[name]) for name in after)


def test_our_hooks_belong_to_the_iteration(config):
    calls = []

    class Recorder(Hook):
        def before_train_iter(self, runner, batch_idx, data_batch=None):
            calls.append(("before", runner.iter))

        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            calls.append(("after", sorted(outputs)))

    model = MODELS.build(config.model)
    Trainer(model, config.optim_wrapper, [Recorder()]).step(7, make_batch(0, 2, SIZE, classes=5))
    assert calls == [("before", 7), ("after", ["loss", "loss_bbox", "loss_cls"])]


def test_the_seeding_hook_runs_without_a_runner(config):
    draws = []
    for _ in range(2):
        Trainer(MODELS.build(config.model), config.optim_wrapper, [IterationSeedHook()]).step(
            3, make_batch(0, 2, SIZE, classes=5)
        )
        draws.append((random.random(), np.random.rand(), torch.rand(1).item()))  # noqa: NPY002
    assert draws[0] == draws[1]


def test_the_comparison(config):
    comparison = benchmark_train_step(config, "retina_phantom", size=SIZE, batch_size=2, rounds=2)
    assert comparison.title == "Training iteration of retina_phantom, 2 x 64 px"
    assert [(entry.name, len(entry.wall_s)) for entry in comparison.timings] == [(STOCK, 2), (OURS, 2)]
    assert comparison.clock == ("wall_s" if torch.cuda.is_available() else "cpu_s")


def test_switches_are_compared_with_the_recipe(config):
    switched = load_config("retina_phantom", load_from="none", switches=["channels_last", "fused_optimizer"])
    comparison = benchmark_switches({PLAIN: config, "both": switched}, "x", size=SIZE, batch_size=2, rounds=1)
    assert [entry.name for entry in comparison.timings] == [PLAIN, "both"]


def test_unequal_models_are_not_compared(config, monkeypatch):
    real = train_step._build_models

    def unequal(config):
        stock, ours = real(config)
        torch.nn.init.constant_(stock.bbox_head.retina_cls.bias, 0.5)
        return stock, ours

    monkeypatch.setattr(train_step, "_build_models", unequal)
    with pytest.raises(ConfigError, match="do not compute the same loss_cls"):
        benchmark_train_step(config, "retina_phantom", size=SIZE, batch_size=2, rounds=1)


def test_batches_are_as_the_loader_hands_them_over():
    batch, other = make_batch(3, 2, SIZE, classes=5), make_batch(4, 2, SIZE, classes=5)
    for image, sample in zip(batch["inputs"], batch["data_samples"], strict=True):
        assert (image.dtype, tuple(image.shape), image.stride(0)) == (torch.uint8, (3, SIZE, SIZE), 0)
        boxes = sample.gt_instances.bboxes.tensor
        assert bool(((boxes >= 0) & (boxes <= SIZE)).all())
        assert bool((boxes[:, 2:] > boxes[:, :2]).all())
        assert set(sample.gt_instances.labels.tolist()) <= set(range(5))
        assert len(sample.ignored_instances) == 0
    assert not torch.equal(batch["inputs"][0], other["inputs"][0])
    assert torch.equal(batch["inputs"][0], make_batch(3, 2, SIZE, classes=5)["inputs"][0])


def test_the_stock_side_gets_three_planes_in_memory():
    batch = make_batch(0, 2, SIZE, classes=5)
    copied = train_step._with_planes_copied(batch)
    assert copied["inputs"][0].is_contiguous()
    assert torch.equal(copied["inputs"][0], batch["inputs"][0])
    assert copied["data_samples"][0] is not batch["data_samples"][0]
