from dataclasses import replace
from pathlib import Path

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


def test_paths_of_a_run_are_printed_in_one_way(tmp_path, monkeypatch):
    """The work dir was relative, the last checkpoint absolute."""
    from cxr_mmdet.engine.running import TrainingOutcome

    monkeypatch.chdir(tmp_path)
    work_dir = Path("work_dirs/run")
    outcome = TrainingOutcome(work_dir, work_dir / "best.pth", tmp_path / "work_dirs/run/last.pth", None)
    assert train.outcome_lines(outcome) == [
        "work dir         work_dirs/run",
        "best checkpoint  work_dirs/run/best.pth",
        "last checkpoint  work_dirs/run/last.pth",
        "curves           none",
    ]
    elsewhere = replace(outcome, last_checkpoint=tmp_path / "other/last.pth")
    assert train.outcome_lines(elsewhere)[2] == f"last checkpoint  {tmp_path / 'other/last.pth'}"
