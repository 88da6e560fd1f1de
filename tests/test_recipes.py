import pytest

from cxr_mmdet.errors import ConfigError
from cxr_mmdet.recipes import config_names, describe_switch, resolve_config, resolve_switches, switch_names

OWN = {
    "accumulate",
    "clip_gradients",
    "early_stopping",
    "ema",
    "frozen_backbone",
    "frozen_norms",
    "whole_backbone",
}


def test_recipes_and_switches_are_found_by_name():
    assert "retina_5cls" in config_names()
    assert set(switch_names()) >= OWN
    assert resolve_config("retina_5cls").name == "retina_5cls.py"


@pytest.mark.parametrize("name", switch_names())
def test_every_switch_says_in_its_first_line_what_it_does(name):
    sentence = describe_switch(name)
    assert sentence[0].isupper()
    assert sentence[-1] == "."
    assert len(sentence) < 90  # a line of --help


def test_names_come_with_commas_and_each_once():
    names = [path.stem for path in resolve_switches(["ema, early_stopping", "clip_gradients,ema,"])]
    assert names == ["ema", "early_stopping", "clip_gradients"]


def test_a_file_is_a_switch(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("# Mine.\n")
    assert resolve_switches([str(path)]) == [path]


@pytest.mark.parametrize("name", ["early_stoping", "early-stopping.py"])
def test_a_typing_error_is_answered_by_the_nearest_and_all(name):
    with pytest.raises(ConfigError, match=r"no such switch; did you mean early_stopping\? .*accumulate.*, ema, "):
        resolve_switches([name])


def test_a_name_like_no_other_is_answered_by_all():
    with pytest.raises(ConfigError, match=r"no such switch; the switches are abnormal_only, accumulate, "):
        resolve_switches(["xyz"])


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("retina_14cls_gate", "retina_14cls --with gate"),
        ("configs/retina_phantom_gate.py", "retina_phantom --with gate"),
        ("faster_rcnn_5cls_votes", "faster_rcnn_5cls --with votes"),
        ("rtmdet_s_5cls", "rtmdet_s --labels 5"),
    ],
)
def test_a_recipe_joined_to_a_switch_or_label_set_is_answered_by_both(name, remedy):
    with pytest.raises(ConfigError, match=f"{name}: no such config; pass {remedy} instead"):
        resolve_config(name)
