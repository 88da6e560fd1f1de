"""Switches of data and model laid over recipes, in every combination."""

from __future__ import annotations

import functools
import itertools
from typing import TYPE_CHECKING

import pytest
from mmdet.registry import DATA_SAMPLERS, DATASETS, MODELS
from mmengine.registry import init_default_scope

from cxr_mmdet.engine import config as configs
from cxr_mmdet.errors import ConfigError
from cxr_mmdet.models.gated_detectors import gate_of
from cxr_mmdet.models.vote_weights import weighs_votes

if TYPE_CHECKING:
    from conftest import PreparedFolder
    from mmengine.config import Config

GENTLE = ["RandomClahe", "RandomPositioning", "RandomExposure"]
OF_DATA = ("repeat_factor", "normal_share", "gentle_augmentation", "minority_copies")
RARE = ["ILD", "Infiltration"]
BASES = ("retina_5cls", "retina_phantom")


def steps(config: Config) -> list[str]:
    dataset = config.train_dataloader.dataset
    return [step["type"] for step in dataset.get("dataset", dataset).pipeline]


@functools.cache
def own_steps(base: str) -> list[str]:
    """Return the steps of a recipe; they must stay as they are."""
    return steps(configs.load_config(base))


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize(
    "on",
    [names for count in range(5) for names in itertools.combinations(OF_DATA, count)],
    ids=lambda on: "+".join(on) or "none",
)
def test_every_combination_builds_and_draws(prepared_folder: PreparedFolder, base, on):
    root = prepared_folder(train=20)  # of 5 classes, which image 4, 8, … would hold is in 9, 13, … as well
    config = configs.load_config(base, switches=on, data_root=root)
    init_default_scope("mmdet")
    dataset = DATASETS.build(config.train_dataloader.dataset)
    sampler = DATA_SAMPLERS.build(config.train_dataloader.sampler, default_args=dict(dataset=dataset, seed=1))
    if "minority_copies" in on:
        assert list(dataset.minority_classes) == RARE
        assert [variant.value for variant in dataset.variants] == ["horizontal_flip"]
        assert dataset.copies > 0
    plan = sampler.plan
    assert (plan is not None and plan.repeat_threshold is not None) == ("repeat_factor" in on)
    assert (plan is not None and plan.normal_share is not None) == ("normal_share" in on)
    own = own_steps(base)
    replaced = [step for step in own if step not in ("RandomAffine", "RandomExposure")]
    expected = [*replaced[:-2], *GENTLE, *replaced[-2:]] if "gentle_augmentation" in on else own
    assert steps(config) == expected
    assert config.train_dataloader.batch_size == configs.load_config(base).train_dataloader.batch_size

    drawn = [next(sampler.indices) for _ in range(8)]
    if "normal_share" in on:
        assert sum(not dataset.get_cat_ids(index) for index in drawn) == 2
    for draw in drawn[:2]:
        sample, again = dataset[draw], dataset[draw]
        assert (sample["inputs"] == again["inputs"]).all()
        assert sample["inputs"].shape[0] == 3


def test_minority_copies_give_a_recipe_the_step_that_makes_them():
    config = configs.load_config("retina_14cls", switches=["minority_copies"])
    assert steps(config)[:3] == ["LoadGreyImage", "LoadVotedAnnotations", "MinorityFlipRot90"]
    assert len(config.train_dataloader.dataset.minority_classes) == 6
    assert "MinorityFlipRot90" not in own_steps("retina_14cls")


@pytest.mark.parametrize("name", ["retina_5cls", "faster_rcnn_14cls"])
def test_model_switches_change_the_model_to_what_they_say(name):
    plain = configs.load_config(name)
    both = configs.load_config(name, switches=["votes,gate"])
    init_default_scope("mmdet")
    model = MODELS.build(both.model)
    assert weighs_votes(model)
    assert gate_of(model).rule.score_mode.value == ("leave" if "faster" in name else "multiply")
    assert not weighs_votes(MODELS.build(plain.model))
    parts = {name for name, _ in model.named_parameters() if not name.startswith("gate.")}
    assert parts == {name for name, _ in MODELS.build(plain.model).named_parameters()}


@pytest.mark.parametrize("name", ["retina_phantom", "gfl", "faster_rcnn_14cls", "cascade_rcnn"])
@pytest.mark.parametrize("on", ["corners", "readers,corners", "corners,votes"])
def test_corners_come_with_votes_in_any_order(name, on):
    model = configs.load_config(name, switches=[on]).model
    heads = model.roi_head.bbox_head if "roi_head" in model else model.bbox_head
    votes = configs.load_config(name, switches=["votes"]).model
    votes = votes.roi_head.bbox_head if "roi_head" in votes else votes.bbox_head
    for head, plain in zip(*(each if isinstance(each, list) else [each] for each in (heads, votes)), strict=True):
        assert head.type == plain.type
        assert head.votes == {"corners": True}


def test_votes_reach_every_stage_of_a_cascade():
    config = configs.load_config("cascade_rcnn", switches=["votes"])
    assert {head.type for head in config.model.roi_head.bbox_head} == {"VoteWeightedShared2FCBBoxHead"}
    assert {stage.sampler.type for stage in config.model.train_cfg.rcnn} == {"VoteRandomSampler"}
    plain = configs.load_config("cascade_rcnn")
    assert [head.loss_bbox for head in config.model.roi_head.bbox_head] == [
        head.loss_bbox for head in plain.model.roi_head.bbox_head
    ]


@pytest.mark.parametrize(("name", "head"), [("rtmdet_s", "RTMDetSepBNHead"), ("dino_r50", "DINOHead")])
def test_votes_on_a_head_that_cannot_weigh_them_are_a_sentence(name, head):
    with pytest.raises(
        ConfigError, match=rf"switch votes: no {head} weighs readers' votes; .*GFLHead, RPNHead, Retina"
    ):
        configs.load_config(name, switches=["votes"])


def test_the_switches_for_rare_findings_mirror_nothing():
    config = configs.load_config("retina_14cls", switches=["repeat_factor,normal_share,gentle_augmentation"])
    assert not {"RandomFlip", "MinorityFlipRot90"} & set(steps(config))


def test_copies_of_classes_that_the_data_do_not_hold_are_refused(prepared_folder: PreparedFolder):
    root = prepared_folder(labels=("Right lung", "Left lung"), name="auto")
    config = configs.load_config("retina_small", data_root=root, switches=["minority_copies"])
    with pytest.raises(ConfigError, match=r"minority class Atelectasis, .* is not one of Right lung, Left lung"):
        DATASETS.build(config.train_dataloader.dataset)


def test_switches_work_from_the_command_line_too():
    options = ["normal_share=0.25", "repeat_threshold=0.2", "repeat_classes=ILD,Nodule/Mass"]
    config = configs.load_config(
        "retina_5cls",
        cfg_options=[
            *(f"train_dataloader.sampler.{option}" for option in options),
            "train_dataloader.dataset.variants=[]",
        ],
    )
    sampler = config.train_dataloader.sampler
    assert (sampler.normal_share, sampler.repeat_threshold) == (0.25, 0.2)
    assert sampler.repeat_classes == ["ILD", "Nodule/Mass"]
    assert config.train_dataloader.dataset.variants == []
