"""The gate's rule on box scores, by numbers worked out by hand."""

import pytest

from cxr_mmdet.errors import ConfigError
from cxr_mmdet.models.gate_rule import GateRule, ScoreMode


@pytest.mark.parametrize(
    ("mode", "p_abnormal", "factor"),
    [
        ("leave", 0.03, 1.0),
        ("multiply", 0.03, 0.03),
        ("multiply", 1.0, 1.0),
        ("cut", 0.19, 0.0),
        ("cut", 0.2, 1.0),
        ("cut", 0.9, 1.0),
    ],
)
def test_the_factor_of_each_mode(mode, p_abnormal, factor):
    assert GateRule.of(mode, 0.2).factor(p_abnormal) == factor


def test_a_power_of_it_by_hand():
    assert GateRule.of("multiply", 0.2, 0.25).factor(0.0081) == pytest.approx(0.3)
    assert GateRule.of("multiply", 0.2, 0.25).factor(0.0) == 0.0
    assert GateRule.of("cut", 0.2, 0.25).factor(0.19) == 0.0


def test_it_travels_as_json():
    rule = GateRule.of("cut", 0.2, 0.5)
    assert rule.to_json() == {"score_mode": "cut", "cut": 0.2, "exponent": 0.5}
    assert GateRule.from_json(rule.to_json()) == rule == GateRule(ScoreMode.cut, 0.2, 0.5)


def test_bundles_of_before_the_exponent_multiply_by_p_abnormal_itself():
    assert GateRule.from_json({"score_mode": "multiply", "cut": 0.1}).factor(0.3) == 0.3


@pytest.mark.parametrize(
    ("mode", "cut", "exponent", "message"),
    [
        ("add", 0.5, 1, "score_mode is 'add'; choose one of leave, multiply, cut"),
        ("cut", 1.5, 1, "cut is 1.5"),
        ("multiply", 0.5, 0, "exponent is 0; give a number above 0"),
    ],
)
def test_what_cannot_be(mode, cut, exponent, message):
    with pytest.raises(ConfigError, match=message):
        GateRule.of(mode, cut, exponent)
