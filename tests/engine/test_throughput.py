"""The clock of iterations; what whole runs log of it is in test_switched_runs."""

import time
from types import SimpleNamespace

import pytest
from mmengine.hooks import IterTimerHook
from mmengine.logging import MessageHub

from cxr_mmdet.engine import throughput
from cxr_mmdet.engine.throughput import ThroughputHook, ThroughputLogProcessor, images_per_iteration

PAUSE = 0.2


def make_runner(*hooks, **changes) -> SimpleNamespace:
    hub = MessageHub.get_instance(f"throughput_{time.monotonic()}")
    values = {"hooks": hooks, "message_hub": hub, "iter": 0, "max_iters": 10, "world_size": 1}
    loader = SimpleNamespace(batch_size=4)
    return SimpleNamespace(**(values | {"train_dataloader": loader} | changes))


@pytest.mark.parametrize("after", ["after_train_iter", "after_val_epoch"])
@pytest.mark.parametrize("ours", [True, False])
def test_saving_and_validating_are_no_waiting_for_data(after, ours):
    timer, hook = IterTimerHook(), ThroughputHook()
    runner = make_runner(timer, hook)
    timer.before_train(runner)
    timer.before_train_epoch(runner)
    if ours:
        hook.before_train(runner)
    timer.before_train_iter(runner, 0)
    timer.after_train_iter(runner, 0)
    time.sleep(PAUSE)  # a checkpoint is saved, say
    getattr(hook, after)(runner, **({"batch_idx": 0} if "iter" in after else {}))
    timer.before_train_iter(runner, 1)
    waited = runner.message_hub.get_scalar("train/data_time").current()
    assert (waited < PAUSE / 2) == ours


@pytest.mark.parametrize(("batch_size", "world_size"), [(4, 1), (None, 2)])
def test_images_are_those_of_all_processes(batch_size, world_size):
    loader = SimpleNamespace(batch_size=batch_size, batch_sampler=SimpleNamespace(batch_size=3))
    runner = make_runner(train_dataloader=loader, world_size=world_size)
    assert images_per_iteration(runner) == (batch_size or 3) * world_size


def log_line(monkeypatch, mode: str, scalars: dict) -> tuple[dict, str]:
    monkeypatch.setattr(
        throughput.LogProcessor, "get_log_after_iter", lambda *_: (dict(scalars), "Iter  "), raising=True
    )
    monkeypatch.setattr(throughput, "peak_bytes", lambda: 3 * 1024**2)
    return ThroughputLogProcessor(by_epoch=False).get_log_after_iter(make_runner(), 0, mode)


def test_a_line_of_training(monkeypatch):
    scalars, line = log_line(monkeypatch, "train", {"time": 0.5, "data_time": 0.05})
    assert scalars == {
        "time": 0.5,
        "data_time": 0.05,
        "images_per_second": 4 / 0.5,
        "data_share": 0.05 / 0.5,
        "memory": 3,
    }
    assert line.endswith("images/s: 8.0  waiting for data: 10%  memory: 3")


def test_the_memory_of_a_gpu_stays_as_mmengine_gives_it(monkeypatch):
    scalars, line = log_line(monkeypatch, "train", {"time": 0.5, "data_time": 0.0, "memory": 700})
    assert scalars["memory"] == 700
    assert "memory" not in line


def test_without_a_timer_there_is_only_memory(monkeypatch):
    assert log_line(monkeypatch, "train", {}) == ({"memory": 3}, "Iter    memory: 3")


def test_other_lines_stay_as_they_are(monkeypatch):
    assert log_line(monkeypatch, "val", {"time": 1.0, "data_time": 0.0}) == ({"time": 1.0, "data_time": 0.0}, "Iter  ")
