import logging
from types import SimpleNamespace

import pytest
import torch
from mmdet.registry import MODELS
from mmengine.registry import FUNCTIONS, init_default_scope
from training_runs import train_here

from benchmarks.train_step import Trainer, make_batch
from cxr_mmdet.datasets.transforms import collate_planes
from cxr_mmdet.engine import ChannelsLastHook, CompileHook
from cxr_mmdet.engine.config import load_config


def test_channels_last_changes_the_layout_and_not_the_numbers():
    config = load_config("retina_lungs")
    assert {"type": "ChannelsLastHook"} in config.custom_hooks
    init_default_scope("mmdet")
    plain, turned = MODELS.build(config.model), MODELS.build(config.model)
    turned.load_state_dict(plain.state_dict())
    ChannelsLastHook().before_train(SimpleNamespace(model=turned))
    weight = turned.backbone.layer3[0].conv1.weight
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert not weight.is_contiguous()
    assert torch.equal(weight, plain.backbone.layer3[0].conv1.weight)
    batch = make_batch(0, 2, 96, classes=2)
    losses, expected = (Trainer(model, config.optim_wrapper).losses(batch) for model in (turned, plain))
    for name in expected:
        for got, want in zip(losses[name], expected[name], strict=True):
            assert torch.allclose(got, want, rtol=1e-4, atol=1e-6)


def test_a_network_too_narrow_for_channels_last_keeps_its_layout():
    # torch 2.14 writes beyond its memory in the backward pass of such a convolution.
    narrow = torch.nn.Sequential(torch.nn.Conv2d(8, 16, 1, stride=2), torch.nn.Conv2d(16, 16, 3))
    ChannelsLastHook().before_train(SimpleNamespace(model=narrow, logger=logging.getLogger()))
    assert not narrow[1].weight.is_contiguous(memory_format=torch.channels_last)
    wide = torch.nn.Sequential(
        torch.nn.Conv2d(16, 16, 1, stride=2), torch.nn.Conv2d(8, 16, 1), torch.nn.Conv2d(16, 16, 3)
    )
    ChannelsLastHook().before_train(SimpleNamespace(model=wide))
    assert wide[2].weight.is_contiguous(memory_format=torch.channels_last)


def test_backbone_and_neck_are_compiled():
    config = load_config("retina_phantom", load_from="none", switches=["compile"])
    assert config.custom_hooks[-1] == {"type": "CompileHook"}
    init_default_scope("mmdet")
    plain, compiled = MODELS.build(config.model), MODELS.build(config.model)
    compiled.load_state_dict(plain.state_dict())
    calls = []
    for part in (compiled.backbone, compiled.neck):
        part.compile = lambda part=part, **options: calls.append((part, options))
    CompileHook().before_train(SimpleNamespace(model=compiled))
    assert calls == [(compiled.backbone, {"dynamic": True}), (compiled.neck, {"dynamic": True})]
    assert compiled.state_dict().keys() == plain.state_dict().keys()


@pytest.mark.parametrize("gpu", [False, True])
def test_the_switches_for_a_gpu(monkeypatch, gpu):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    config = load_config("retina_5cls", switches=["pinned_memory", "cudnn_benchmark", "fused_optimizer"])
    for loader in (config.train_dataloader, config.val_dataloader, config.test_dataloader):
        assert loader.pin_memory is gpu
        assert FUNCTIONS.get(loader.collate_fn.type) is collate_planes
    assert config.model.data_preprocessor.non_blocking
    assert config.env_cfg.cudnn_benchmark
    assert config.optim_wrapper.optimizer.fused


def test_a_collated_plane_becomes_the_same_input():
    """torch cannot pin a tensor whose planes share their memory, which is how the loader hands images over."""
    config = load_config("retina_5cls")
    init_default_scope("mmdet")
    preprocessor = MODELS.build(config.model.data_preprocessor)
    batch = make_batch(0, 2, 64, classes=5)
    samples = [{"inputs": image, "data_samples": sample} for image, sample in zip(*batch.values(), strict=True)]
    collated = collate_planes(samples)
    assert [image.shape for image in collated["inputs"]] == [(1, 64, 64)] * 2
    assert all(image.is_contiguous() for image in collated["inputs"])
    expected, got = (preprocessor(each, True)["inputs"] for each in (batch, collated))
    assert torch.equal(got, expected)


@pytest.mark.parametrize("switches", [[], ["pinned_memory", "cudnn_benchmark", "fused_optimizer", "channels_last"]])
@pytest.mark.parametrize("amp", [False, True])
def test_trains_on_a_gpu(prepared_folder, tmp_path, switches, amp):
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    more = (*(["--amp"] if amp else []), *(["--with", ",".join(switches)] if switches else []))
    log = train_here(prepared_folder(), tmp_path / "run", "train_dataloader.num_workers=1", more=more)
    assert "Iter(train) [3/3]" in log
    assert (tmp_path / "run" / "iter_3.pth").is_file()
