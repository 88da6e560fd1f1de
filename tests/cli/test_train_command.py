import pytest
from typer.testing import CliRunner

from cxr_mmdet.cli import test, train
from cxr_mmdet.recipes import describe_switch, switch_names


def test_help_lists_every_switch_and_what_it_does(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COLUMNS", "120")
    said = " ".join(CliRunner().invoke(train.app, ["--help"]).output.split())
    for name in switch_names():
        assert f"{name} {describe_switch(name)}" in said


def test_both_commands_take_switches():
    for app in (train.app, test.app):
        assert "--with" in CliRunner().invoke(app, ["--help"]).output


@pytest.mark.parametrize(("fast", "noted"), [(True, False), (False, True), (None, False)])
def test_amp_says_when_the_cpu_makes_it_slow(monkeypatch: pytest.MonkeyPatch, fast, noted):
    import torch

    from cxr_mmdet.engine import precision, running
    from cxr_mmdet.errors import CheckpointError

    def stop(*_, **__):
        raise CheckpointError("far enough")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(precision, "has_fast_bfloat16", lambda: fast)
    monkeypatch.setattr(running, "train", stop)
    result = CliRunner().invoke(train.app, ["retina_phantom", "--amp"])
    assert "far enough" in result.stderr
    assert ("no bfloat16 arithmetic" in result.stderr) is noted
