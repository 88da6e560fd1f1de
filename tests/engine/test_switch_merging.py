"""Switches laid over recipes: what a user gets of ``--with``, before anything is built."""

import functools
import itertools
from pathlib import Path

import pytest
from mmengine.config import Config

from cxr_mmdet.engine import config as configs
from cxr_mmdet.errors import ConfigError
from cxr_mmdet.recipes import switch_names

OWN = ("accumulate", "clip_gradients", "early_stopping", "ema", "frozen_norms", "whole_backbone")
KEYS = ("optim_wrapper", "default_hooks", "model")


def load(name: str, *switches: str, options: tuple[str, ...] = ()) -> Config:
    return configs.load_config(name, switches=switches, cfg_options=options)


def write(path: Path, *lines: str) -> str:
    path.write_text("\n".join(lines) + "\n")
    return str(path)


@pytest.mark.parametrize("name", configs.config_names())
def test_without_switches_a_recipe_is_what_its_file_says(name):
    plain = Config.fromfile(configs.config_folder() / f"{name}.py")
    if not plain.get("switches"):
        loaded = load(name)
        read = {key: value for key, value in plain.to_dict().items() if key in loaded}
        assert loaded.to_dict() == read | {"work_dir": f"work_dirs/{name}"}
        assert all(
            key.endswith(("classes", "data_root", "_pipeline", "_steps", "_backends"))
            for key in plain
            if key not in read
        )


@functools.cache
def alone(name: str, switch: str) -> dict:
    """Return a recipe with one switch, or with none; it must stay as it is."""
    return load(name, switch).to_dict() | {"work_dir": ""}


def items(value: dict) -> set[str]:
    return {f"{key}={part}" for key, part in value.items()}


@pytest.mark.parametrize("pair", list(itertools.combinations(OWN, 2)), ids="+".join)
def test_any_two_switches_come_through_whole(pair):
    both = load("faster_rcnn_5cls", *pair).to_dict()
    for switch in pair:
        one = alone("faster_rcnn_5cls", switch)
        added = {key: items(one[key]) - items(alone("faster_rcnn_5cls", "")[key]) for key in KEYS}
        assert any(added.values()) or switch == "frozen_norms"
        assert {key: new - items(both[key]) for key, new in added.items()} == {key: set() for key in KEYS}
    assert both["model"]["backbone"]["norm_eval"] is (pair[1] != "whole_backbone")
    assert both["custom_hooks"] == alone("faster_rcnn_5cls", "")["custom_hooks"]


@pytest.mark.parametrize("switch", switch_names())
def test_every_switch_changes_a_recipe(switch):
    """Not every recipe: the demo's schedule clips gradients, R50's norms are frozen, RetinaNet's loss is steady."""
    names = ("retina_phantom", "retina_5cls", "gfl")
    if switch == "boxes_from_abnormal":  # refused where there is no gate
        assert alone("retina_phantom", "gate,boxes_from_abnormal") != alone("retina_phantom", "gate")
        return
    assert any(alone(name, switch) != alone(name, "") for name in names)


def test_custom_hooks_are_added_and_options_come_last(tmp_path):
    mine = write(
        tmp_path / "mine.py",
        "custom_hooks = [dict(type='CheckInvalidLossHook', interval=7)]",
        "train_cfg = dict(max_iters=11, val_interval=_base_.train_cfg.val_interval // 2)",
    )
    config = load("retina_phantom", mine, options=("train_cfg.max_iters=13",))
    own = load("retina_phantom")
    assert config.custom_hooks == [*own.custom_hooks, {"type": "CheckInvalidLossHook", "interval": 7}]
    assert (config.train_cfg.max_iters, config.train_cfg.val_interval) == (13, own.train_cfg.val_interval // 2)
    assert config.filename == own.filename


def test_a_recipe_names_switches_that_it_always_has_on(tmp_path):
    leaf = write(
        tmp_path / "leaf.py",
        f"_base_ = [{str(configs.config_folder() / 'retina_phantom.py')!r}]",
        "switches = ['ema', 'accumulate']",
    )
    config = load(leaf, "ema", "early_stopping")
    assert config.optim_wrapper.accumulative_counts == 4
    assert {"ema", "early_stopping"} <= config.default_hooks.keys()
    assert "switches" not in config


def test_what_a_run_dumped_loads_as_it_is(tmp_path):
    """Its switches are in it; laying them over once more would double their hooks."""
    mine = write(tmp_path / "mine.py", "custom_hooks = [dict(type='CheckInvalidLossHook')]")
    config = load("retina_phantom", "ema", mine)
    config.dump(tmp_path / "dumped.py")
    assert load(str(tmp_path / "dumped.py")).to_dict() == config.to_dict()


def test_another_training_gets_another_folder(tmp_path):
    assert load("retina_5cls").work_dir == "work_dirs/retina_5cls"
    assert load("retina_5cls", "ema,accumulate").work_dir == "work_dirs/retina_5cls+ema+accumulate"
    assert configs.load_config("retina_5cls", switches=["ema"], work_dir=tmp_path).work_dir == str(tmp_path)


def test_modules_that_a_switch_names_are_imported(tmp_path, monkeypatch):
    (tmp_path / "imported_by_a_switch.py").write_text("import os\nos.environ['IMPORTED_BY_A_SWITCH'] = 'yes'\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("IMPORTED_BY_A_SWITCH", "no")
    mine = write(
        tmp_path / "mine.py",
        "custom_imports = dict(imports=[*_base_.custom_imports.imports, 'imported_by_a_switch'])",
    )
    load("retina_phantom", mine)
    import os

    assert os.environ["IMPORTED_BY_A_SWITCH"] == "yes"


class TestBadInput:
    @pytest.mark.parametrize(
        "line",
        ["model = dict(", "1 / 0", "train_cfg = dict(x=_base_.nothing)", "load_from = dict(a=1)"],
        ids=["syntax", "program", "missing base", "a dict in place of a text"],
    )
    def test_a_switch_that_does_not_fit_is_one_sentence(self, tmp_path, line):
        mine = write(tmp_path / "mine.py", line)
        with pytest.raises(ConfigError, match=r"^switch mine does not fit this config: \w+Error"):
            load("retina_phantom", mine)

    def test_a_key_of_a_switch_that_nothing_reads(self, tmp_path):
        mine = write(tmp_path / "mine.py", "load_form = None")
        with pytest.raises(ConfigError, match="load_form; did you mean load_from"):
            load("retina_phantom", mine)

    @pytest.mark.parametrize(("name", "switch"), [("retina_phantom", "frozen_backbone"), ("retina_phantom", "")])
    def test_a_random_backbone_cannot_be_frozen(self, name, switch):
        options = () if switch else ("model.backbone.frozen_stages=1",)
        with pytest.raises(ConfigError, match=r"frozen_stages is \d and no weights are loaded"):
            configs.check_start(load(name, switch, options=options))

    def test_a_pretrained_one_can(self):
        configs.check_start(load("retina_5cls", "frozen_backbone"))
        config = load("retina_phantom", "frozen_backbone")
        config.load_from = "start.pth"
        configs.check_start(config)
