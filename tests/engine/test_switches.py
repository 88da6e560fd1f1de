"""The fragments of ``configs/_base_/switches``, put into leaves as their comments say, in every combination."""

from __future__ import annotations

import functools
import itertools
from typing import TYPE_CHECKING

import pytest
from mmdet.registry import DATA_SAMPLERS, DATASETS
from mmengine.registry import init_default_scope

from cxr_mmdet.engine import config as configs

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import PreparedFolder
    from mmengine.config import Config

GENTLE = ["RandomClahe", "RandomPositioning", "RandomExposure"]
SWITCHES = ("repeat_factor", "normal_share", "gentle_augmentation", "minority_copies")
LEAVES = {"retina_5cls": -2, "retina_phantom": -4}
"""Recipes with minority copies, and where the own steps end before which a gentle augmentation stands."""


def write_leaf(folder: Path, base: str, on: tuple[str, ...]) -> Path:
    """Write a leaf of ``base`` with these switches on and the others off."""
    fragments = [name for name in on if name != "minority_copies"]
    files = [f"{base}.py", *(f"_base_/switches/{name}.py" for name in fragments)]
    lines = [f"_base_ = {[str(configs.config_folder() / name) for name in files]}"]
    sampler = ", ".join(f"**_base_.{name}" for name in fragments if name != "gentle_augmentation")
    lines.append(f"train_dataloader = dict(sampler=dict({sampler}), dataset=dict(dataset=dict(), variants=[]))")
    if "gentle_augmentation" in on:
        steps = f"*_base_.train_pipeline[:{LEAVES[base]}], *_base_.gentle_augmentation, *_base_.train_pipeline[-2:]"
        lines.append(f"train_dataloader['dataset']['dataset']['pipeline'] = [{steps}]")
    if "minority_copies" in on:
        lines.append("train_dataloader['dataset'].pop('variants')")
    path = folder / "leaf.py"
    path.write_text("\n".join(lines) + "\n")
    return path


def steps(config: Config) -> list[str]:
    dataset = config.train_dataloader.dataset
    return [step["type"] for step in dataset.get("dataset", dataset).pipeline]


@functools.cache
def own_steps(base: str) -> list[str]:
    """Return the steps of a recipe; they must stay as they are."""
    return steps(configs.load_config(base))


@pytest.mark.parametrize("base", LEAVES)
@pytest.mark.parametrize(
    "on",
    [names for count in range(5) for names in itertools.combinations(SWITCHES, count)],
    ids=lambda on: "+".join(on) or "none",
)
def test_every_combination_builds_and_draws(prepared_folder: PreparedFolder, tmp_path: Path, base, on):
    root = prepared_folder(train=20)  # of 5 classes, which image 4, 8, … would hold is in 9, 13, … as well
    config = configs.load_config(str(write_leaf(tmp_path, base, on)), data_root=root)
    init_default_scope("mmdet")
    dataset = DATASETS.build(config.train_dataloader.dataset)
    sampler = DATA_SAMPLERS.build(config.train_dataloader.sampler, default_args=dict(dataset=dataset, seed=1))
    assert (len(dataset) > 20) == ("minority_copies" in on)
    plan = sampler.plan
    assert (plan is not None and plan.repeat_threshold is not None) == ("repeat_factor" in on)
    assert (plan is not None and plan.normal_share is not None) == ("normal_share" in on)
    own = own_steps(base)
    expected = [*own[: LEAVES[base]], *GENTLE, *own[-2:]] if "gentle_augmentation" in on else own
    assert steps(config) == expected

    drawn = [next(sampler.indices) for _ in range(8)]
    if "normal_share" in on:
        assert sum(not dataset.get_cat_ids(index) for index in drawn) == 2
    for draw in drawn[:2]:
        sample, again = dataset[draw], dataset[draw]
        assert (sample["inputs"] == again["inputs"]).all()
        assert sample["inputs"].shape[0] == 3


def test_the_fragments_are_these_and_hold_one_variable_of_their_name():
    from mmengine.config import Config

    files = sorted((configs.config_folder() / "_base_" / "switches").glob("*.py"))
    ours = {path.stem: Config.fromfile(path) for path in files if path.stem in SWITCHES}
    assert set(ours) == set(SWITCHES) - {"minority_copies"}
    assert {name: list(config) for name, config in ours.items()} == {name: [name] for name in ours}


class TestTheLeafWithAllOfThem:
    def test_differs_from_its_base_in_the_switches_only(self):
        leaf, base = configs.load_config("retina_14cls_rare"), configs.load_config("retina_14cls")
        assert leaf.train_dataloader.sampler == {
            **base.train_dataloader.sampler,
            **leaf.repeat_factor,
            **leaf.normal_share,
        }
        own = steps(base)
        assert steps(leaf) == [*own[:-2], *GENTLE, *own[-2:]]
        for key in ("model", "test_dataloader", "val_dataloader", "optim_wrapper", "param_scheduler", "load_from"):
            assert leaf[key] == base[key]

    def test_mirrors_nothing(self):
        assert not {"RandomFlip", "MinorityFlipRot90"} & set(steps(configs.load_config("retina_14cls_rare")))


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
