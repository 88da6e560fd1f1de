import functools
import logging
import re
from types import SimpleNamespace

import pytest
import torch
import torchvision
from mmdet.registry import MODELS
from mmengine.hooks import EMAHook
from mmengine.registry import init_default_scope
from torch import nn
from training_runs import SMALL_RETINA, train_here

from cxr_mmdet.engine import config as configs
from cxr_mmdet.engine.pretrained import (
    LoadingReport,
    PretrainedReportHook,
    compare_weights,
    fit_bare_backbone,
    fit_classes,
    fit_fpn_levels,
)
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
    header, *rows = str(report).splitlines()
    assert header.split() == ["tensors", "first", "names"]
    assert [row.split() for row in rows] == [
        ["matched", "1", "a"],
        ["skipped,", "other", "shape", "1", "b"],
        ["missing", "in", "the", "file", "1", "c"],
        ["unexpected,", "not", "in", "the", "model", "1", "d"],
    ]


def test_the_table_shows_the_first_names_and_stays_narrow():
    report = LoadingReport(tuple(f"layer{index}.conv.weight" for index in range(9)), (), (), ())
    matched = str(report).splitlines()[1]
    assert matched.split()[:2] == ["matched", "9"]
    assert "layer3.conv.weight, …" in matched
    assert "layer4" not in matched
    long = LoadingReport(("x" * 500,), (), (), ())
    assert max(map(len, str(long).splitlines())) <= 150


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


class TestClasses:
    OWN, GIVEN = ["Scar", "Nodule", "Lung"], ["Lung", "Heart", "Nodule", "Aorta"]

    @pytest.mark.parametrize("anchors", [1, 3])
    @pytest.mark.parametrize("name", ["retina_cls", "rtm_cls.2", "gfl_cls"])
    def test_a_dense_head_scores_common_classes_as_before(self, anchors, name):
        own, given = (nn.Conv2d(4, anchors * len(classes), 3) for classes in (self.OWN, self.GIVEN))
        states = [
            {f"bbox_head.{name}.{key}": value for key, value in conv.state_dict().items()} for conv in (own, given)
        ]
        fitted = fit_classes(*states, self.OWN, self.GIVEN)
        image = torch.rand(1, 4, 5, 5)

        def scores(conv, classes):
            return dict(zip(classes, conv(image).permute(0, 2, 3, 1).reshape(-1, len(classes)).T, strict=True))

        before, new = scores(given, self.GIVEN), scores(own, self.OWN)
        own.load_state_dict({key.rpartition(".")[2]: value for key, value in fitted.items()})
        after = scores(own, self.OWN)
        for common in ("Nodule", "Lung"):
            torch.testing.assert_close(after[common], before[common])
        torch.testing.assert_close(after["Scar"], new["Scar"])

    def test_a_region_head_takes_its_background_and_boxes_too(self):
        own = {"roi_head.bbox_head.fc_cls.bias": torch.zeros(4), "roi_head.bbox_head.fc_reg.bias": torch.zeros(12)}
        given = {
            "roi_head.bbox_head.fc_cls.bias": torch.arange(5.0),
            "roi_head.bbox_head.fc_reg.bias": torch.arange(16.0),
        }
        scores, deltas = fit_classes(own, given, self.OWN, self.GIVEN).values()
        assert scores.tolist() == [0, 2, 0, 4]
        assert deltas.tolist() == [0, 0, 0, 0, 8, 9, 10, 11, 0, 1, 2, 3]

    @pytest.mark.parametrize(
        "name", ["rpn_head.rpn_cls.bias", "bbox_head.retina_reg.bias", "bbox_head.cls_convs.0.bias"]
    )
    def test_what_knows_no_classes_is_left_alone(self, name):
        assert not fit_classes({name: torch.zeros(6)}, {name: torch.ones(8)}, self.OWN, self.GIVEN)

    def test_nothing_in_common_and_other_anchors(self):
        name = "bbox_head.retina_cls.bias"
        fitted = fit_classes({name: torch.zeros(3)}, {name: torch.ones(4)}, self.OWN, ["a", "b", "c", "d"])
        assert not fitted[name].any()
        assert not fit_classes(
            {name: torch.zeros(6)}, {name: torch.ones(4 * 3)}, self.OWN, self.GIVEN[:3] * 0 + ["Lung"] * 5
        )

    @pytest.mark.parametrize("classes", [2, 4])
    def test_a_regressor_that_all_classes_share_is_not_divided(self, classes):
        name = "roi_head.bbox_head.fc_reg.bias"
        names = [*"abcd"[:classes]]
        assert not fit_classes({name: torch.zeros(4)}, {name: torch.arange(4.0)}, names, names[::-1])


def test_rows_of_other_classes_stay_out_though_they_have_the_shape(caplog):
    def detector(value):
        model = nn.Module()
        model.body, model.retina_cls = nn.Linear(2, 2), nn.Linear(2, 1)
        for parameter in model.parameters():
            nn.init.constant_(parameter, value)
        return model

    dataset = SimpleNamespace(metainfo={"classes": ["Nodule"]})
    meta = {"dataset_meta": {"classes": ["Left lung"]}}
    runner = {"train_dataloader": SimpleNamespace(dataset=dataset)}
    with caplog.at_level(logging.INFO):
        loaded = load(detector(0.0), {"state_dict": detector(1.0).state_dict(), "meta": meta}, **runner)
    assert loaded["body.weight"].all()
    assert not loaded["retina_cls.weight"].any()
    assert not loaded["retina_cls.bias"].any()
    assert re.search(r"skipped, other classes +2 +retina_cls.weight, retina_cls.bias", caplog.text)
    assert re.search(r"matched +2  body.weight, body.bias\n", caplog.text)


def load(model: nn.Module, checkpoint: dict, *, resume: bool = False, testing: bool = False, hooks=(), **more) -> dict:
    runner = SimpleNamespace(
        hooks=hooks,
        model=model,
        logger=logging.getLogger("test"),
        _load_from="start.pth",
        _resume=resume,
        _train_loop=None if testing else object(),
        **more,
    )
    PretrainedReportHook().after_load_checkpoint(runner, checkpoint)
    return checkpoint["state_dict"]


def test_training_starts_from_another_class_count_without_its_head(caplog):
    model, coco = Model(5), Model(80).state_dict()
    with caplog.at_level(logging.INFO):
        loaded = load(model, {"state_dict": coco | {"other": torch.zeros(1)}})
    assert loaded.keys() == model.state_dict().keys()  # whole, so that nothing reports the difference again
    assert torch.equal(loaded["body.weight"], coco["body.weight"])
    assert torch.equal(loaded["head.weight"], model.head.weight)
    assert "Starting weights start.pth: 37.5% of the model's values\n" in caplog.text  # 12 of 12 + 20
    assert re.search(r"skipped, other shape +2 +head.weight, head.bias\n", caplog.text)
    (record,) = caplog.records
    assert record.getMessage().count("\n") < 6  # else the console leaves it to the log file


def test_a_checkpoint_saved_from_a_wrapped_model_fits():
    state = {f"module.{name}": value for name, value in Model(5).state_dict().items()}
    assert set(load(Model(5), {"state_dict": state})) == set(Model(5).state_dict())


def test_nothing_in_common_is_refused():
    with pytest.raises(CheckpointError, match="none of its 2 parameters fits"):
        load(Model(5), {"state_dict": nn.Linear(7, 7).state_dict()})


@functools.cache
def detector(name: str, *options: str) -> dict[str, torch.Tensor]:
    """Return the weights of a recipe's model; they must stay as they are."""
    init_default_scope("mmdet")
    return MODELS.build(configs.load_config(name, cfg_options=options).model).state_dict()


R18 = ("retina_14cls", "model.backbone.depth=18", "model.neck.in_channels=[128,256,512]")


class Stateful(nn.Module):
    """Stands for a detector: it has its weights."""

    def __init__(self, state: dict[str, torch.Tensor]) -> None:
        super().__init__()
        self.state = state

    def state_dict(self):
        return self.state


class TestArchitecture:
    @pytest.mark.parametrize(
        ("model", "file", "common"),
        [
            (R18, ("retina_14cls",), "9 of 53"),  # 129 tensors of 156 have the name and shape of one in the file
            (("retina_14cls",), R18, "9 of 53"),
            (("retina_14cls",), ("retina_14cls", "model.backbone.depth=101"), "53 of 104"),  # and here all of them
            (("retina_phantom",), R18, "0 of 20"),  # half the width
        ],
        ids=["R50 in R18", "R18 in R50", "R101 in R50", "R18 in half an R18"],
    )
    def test_another_backbone_is_refused(self, model, file, common):
        assert compare_weights(detector(*model), detector(*file)).matched
        with pytest.raises(CheckpointError, match=rf"start\.pth: belongs to another architecture; .* {common} kernels"):
            load(Stateful(detector(*model)), {"state_dict": dict(detector(*file))})

    @pytest.mark.parametrize(
        ("model", "file"), [("retina_5cls", "faster_rcnn_14cls"), ("faster_rcnn_5cls", "retina_14cls")]
    )
    def test_another_detector_on_the_same_backbone_is_a_start(self, model, file):
        kept = load(Stateful(detector(model)), {"state_dict": dict(detector(file))})
        assert {name for name in detector(model) if name.startswith("backbone.")} <= set(kept)

    def test_torchvisions_backbone_by_itself_is_a_start(self):
        state = torchvision.models.resnet50(weights=None).state_dict()
        kept = load(Stateful(detector("retina_14cls")), dict(state))
        assert torch.equal(kept["backbone.layer4.2.conv3.weight"], state["layer4.2.conv3.weight"])
        assert {name for name in detector("retina_14cls") if name.startswith("backbone.")} <= set(kept)

    def test_a_detectors_names_are_left_alone(self):
        state = {"backbone.a": torch.zeros(1), "a": torch.zeros(1)}
        assert fit_bare_backbone({"backbone.a": torch.zeros(1)}, state) == state


def test_weights_that_were_averaged_need_the_average_to_go_on():
    state = {"state_dict": Model(5).state_dict(), "ema_state_dict": {}}
    with pytest.raises(CheckpointError, match="resume it --with ema"):
        load(Model(5), dict(state), resume=True)
    load(Model(5), dict(state), resume=True, hooks=[EMAHook()])
    load(Model(5), dict(state))  # a start, for another training


@pytest.mark.parametrize("content", [{}, {"state_dict": {}}, {"state_dict": {"a": 1}}, {"meta": {"x": 1}}])
def test_a_file_without_weights_is_refused(content):
    with pytest.raises(CheckpointError, match="no model weights"):
        load(Model(5), content)


@pytest.mark.parametrize("how", [{"testing": True}, {"resume": True}])
def test_testing_and_resuming_need_the_same_class_count(how):
    with pytest.raises(CheckpointError, match=r"another number of classes.*Use the config"):
        load(Model(5), {"state_dict": Model(14).state_dict()}, **how)


@pytest.mark.parametrize("how", ["testing", "resume"])
def test_testing_and_resuming_need_the_same_classes_in_their_order(how):
    """Each output would be scored, or go on to learn, as another finding."""
    loader = {"testing": "test_dataloader", "resume": "train_dataloader"}[how]

    def load_with(*classes: str) -> None:
        dataset = SimpleNamespace(metainfo={"classes": classes})
        meta = {"dataset_meta": {"classes": ("Nodule", "Effusion")}, "iter": 1}
        more = {how: True, loader: SimpleNamespace(dataset=dataset)}
        load(Model(2), {"state_dict": Model(2).state_dict(), "meta": meta}, **more)

    load_with("nodule", "Effusion")
    for classes in (("Effusion", "Nodule"), ("Nodule", "Mass")):
        with pytest.raises(CheckpointError, match=f"classes Nodule, Effusion, the data hold {', '.join(classes)},"):
            load_with(*classes)


def test_testing_needs_every_parameter():
    state = Model(5).state_dict()
    del state["head.bias"]
    with pytest.raises(CheckpointError, match=r"missing 1 \(head\.bias\)"):
        load(Model(5), {"state_dict": state}, testing=True)


def test_a_training_says_once_what_does_not_fit_and_nothing_of_old_file_clients(prepared_folder, tmp_path, capsys):
    root = prepared_folder()
    start = tmp_path / "start.pth"
    config = configs.load_config("retina_phantom", cfg_options=["classes=A,B", *SMALL_RETINA])
    torch.save({"state_dict": MODELS.build(config.model).state_dict()}, start)
    said = train_here(root, tmp_path / "run", more=("--load-from", str(start), "--with", "ema"))
    assert said.count("skipped, other shape") == 1
    assert "do not match exactly" not in said + capsys.readouterr().out
    assert "FileClient" not in said
    assert "HardDiskBackend" not in said
