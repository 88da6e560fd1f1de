import copy

import pytest
import torch
from mmengine.optim import OptimWrapper
from torch import nn

from cxr_mmdet.engine import config as configs
from cxr_mmdet.engine.precision import CpuAmpOptimWrapper, guard_small_maps, has_fast_bfloat16


def train_once(kind: type[OptimWrapper]) -> tuple[nn.Module, torch.Tensor, torch.dtype]:
    """Return a layer after one update, its loss, and the precision of what it computed."""
    torch.manual_seed(0)
    layer = nn.Conv2d(3, 4, 3)
    wrapper = kind(optimizer=torch.optim.SGD(layer.parameters(), lr=0.1))
    with wrapper.optim_context(layer):
        output = layer(torch.rand(2, 3, 8, 8))
        loss = output.float().square().mean()
    wrapper.update_params(loss)
    return layer, loss, output.dtype


def test_computes_in_bfloat16_and_updates_in_float32():
    exact, expected, full = train_once(OptimWrapper)
    layer, loss, half = train_once(CpuAmpOptimWrapper)
    assert (full, half) == (torch.float32, torch.bfloat16)
    assert layer.weight.dtype == torch.float32
    # bfloat16 keeps 8 bits, so an output may be off by 2^-9 of itself.
    assert loss.item() == pytest.approx(expected.item(), rel=2**-7)
    assert loss.item() != expected.item()
    torch.testing.assert_close(layer.weight, exact.weight, rtol=0, atol=2**-7 * 0.1)
    assert not torch.equal(layer.weight, exact.weight)


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [({"avx512_bf16": True, "amx_bf16": False}, True), ({"avx512_bf16": False}, False), ({"avx2": True}, None)],
)
def test_tells_which_cpu_has_it(monkeypatch, capabilities, expected):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert has_fast_bfloat16() is expected


def test_an_older_torch_cannot_tell(monkeypatch):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert has_fast_bfloat16() is None


@pytest.mark.parametrize(("gpu", "expected"), [(True, "AmpOptimWrapper"), (False, "CpuAmpOptimWrapper")])
def test_amp_is_what_the_device_can(monkeypatch, gpu, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    config = configs.load_config("retina_phantom")
    configs.enable_amp(config)
    assert config.optim_wrapper.type == expected
    assert config.optim_wrapper.clip_grad.max_norm == 10
    assert config.optim_wrapper.get("loss_scale") == ("dynamic" if gpu else None)


@pytest.mark.parametrize(("kernel", "stride", "size"), [(3, 2, (1, 1)), (3, 2, (2, 1)), (5, 1, (1, 6)), (7, 1, (2, 8))])
def test_gradients_of_maps_smaller_than_the_kernel_are_exact(kernel, stride, size):
    """oneDNN's bfloat16 gradient is whatever the memory held before, so it is filled with NaN here."""
    torch.manual_seed(0)
    layer = nn.Conv2d(128, 16, kernel, stride, kernel // 2)
    maps = torch.rand(2, 128, *size)
    layer(maps).sum().backward()
    expected = layer.weight.grad.clone()
    wrapper = CpuAmpOptimWrapper(optimizer=torch.optim.SGD(layer.parameters(), lr=0.1))
    for _ in range(5):
        layer.weight.grad = None
        junk = torch.full((300_000,), float("nan"))
        del junk
        with wrapper.optim_context(layer):
            loss = layer(maps).sum()
        loss.backward()
        assert torch.equal(layer.weight.grad, expected)


def test_a_guarded_model_is_copied_whole():
    model = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1))
    guard_small_maps(model)
    copied = copy.deepcopy(model)
    with torch.no_grad():
        copied[0].weight.zero_()
        copied[0].bias.fill_(7)
    maps = torch.rand(1, 3, 8, 8)
    assert copied(maps).unique().tolist() == [7]
    assert model(maps).unique().numel() > 1
