import logging
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from cxr_mmdet.engine.pretrained import PretrainedReportHook, compare_weights, fit_fpn_levels
from cxr_mmdet.errors import CheckpointError


def neck(*channels: int, outs: int | None = None) -> dict[str, torch.Tensor]:
    """Return the weights of an FPN over these input channels; each level's fpn_conv is filled with its channels."""
    weights = {}
    for level, count in enumerate(channels):
        weights[f"neck.lateral_convs.{level}.conv.weight"] = torch.full((256, count, 1, 1), float(count))
        weights[f"neck.fpn_convs.{level}.conv.weight"] = torch.full((256, 256, 3, 3), float(count))
    return weights


def test_groups_of_the_report():
    model = {"a": torch.zeros(2), "b": torch.zeros(3), "c": torch.zeros(1), "bn.num_batches_tracked": torch.zeros(())}
    checkpoint = {"a": torch.ones(2), "b": torch.ones(4), "d": torch.ones(1)}
    report = compare_weights(model, checkpoint)
    assert (report.matched, report.other_shape, report.missing, report.unexpected) == (("a",), ("b",), ("c",), ("d",))
    assert "skipped, other shape: 1 (b)" in str(report)


def test_a_stock_faster_rcnn_neck_moves_down_by_one_level():
    ours, stock = neck(512, 1024, 2048), neck(256, 512, 1024, 2048)
    fitted = fit_fpn_levels(ours, stock)
    assert fitted.keys() == ours.keys()
    for level, channels in enumerate((512, 1024, 2048)):
        assert fitted[f"neck.fpn_convs.{level}.conv.weight"].unique().tolist() == [channels]


@pytest.mark.parametrize("given", [(512, 1024, 2048), (128, 256, 512), (2048,), ()])
def test_other_necks_are_left_alone(given):
    weights = neck(*given)
    assert fit_fpn_levels(neck(512, 1024, 2048), weights) == weights


class Model(nn.Module):
    def __init__(self, classes: int) -> None:
        super().__init__()
        self.body = nn.Linear(3, 3)
        self.head = nn.Linear(3, classes)


def load(model: nn.Module, checkpoint: dict, *, resume: bool = False, testing: bool = False) -> dict:
    runner = SimpleNamespace(
        model=model,
        logger=logging.getLogger("test"),
        _load_from="start.pth",
        _resume=resume,
        _train_loop=None if testing else object(),
    )
    PretrainedReportHook().after_load_checkpoint(runner, checkpoint)
    return checkpoint["state_dict"]


def test_training_starts_from_another_class_count_without_its_head(caplog):
    with caplog.at_level(logging.INFO):
        kept = load(Model(5), {"state_dict": Model(80).state_dict()})
    assert set(kept) == {"body.weight", "body.bias"}
    assert "skipped, other shape: 2 (head.weight, head.bias)" in caplog.text


def test_a_checkpoint_saved_from_a_wrapped_model_fits():
    state = {f"module.{name}": value for name, value in Model(5).state_dict().items()}
    assert set(load(Model(5), {"state_dict": state})) == set(Model(5).state_dict())


def test_nothing_in_common_is_refused():
    with pytest.raises(CheckpointError, match="none of its 2 parameters fits"):
        load(Model(5), {"state_dict": nn.Linear(7, 7).state_dict()})


@pytest.mark.parametrize("content", [{}, {"state_dict": {}}, {"state_dict": {"a": 1}}, {"meta": {"x": 1}}])
def test_a_file_without_weights_is_refused(content):
    with pytest.raises(CheckpointError, match="no model weights"):
        load(Model(5), content)


@pytest.mark.parametrize("how", [{"testing": True}, {"resume": True}])
def test_testing_and_resuming_need_the_same_class_count(how):
    with pytest.raises(CheckpointError, match=r"another number of classes.*Use the config"):
        load(Model(5), {"state_dict": Model(14).state_dict()}, **how)


def test_testing_needs_every_parameter():
    state = Model(5).state_dict()
    del state["head.bias"]
    with pytest.raises(CheckpointError, match=r"missing 1 \(head\.bias\)"):
        load(Model(5), {"state_dict": state}, testing=True)
