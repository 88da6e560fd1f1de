from types import SimpleNamespace

import torch
from mmdet.registry import MODELS
from mmengine.registry import init_default_scope

from benchmarks.train_step import Trainer, make_batch
from cxr_mmdet.engine import ChannelsLastHook
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
