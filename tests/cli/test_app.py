"""What every command shares."""

import io
import pickle
from typing import Annotated

import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

from cxr_mmdet.cli import app as shared
from cxr_mmdet.cli.app import CxrTyper, progress_bar
from cxr_mmdet.cli.main import build_app
from cxr_mmdet.errors import CxrError, TableError, UsageError


def run(function, *args):
    app = CxrTyper()
    app.command()(function)
    return CliRunner().invoke(app, list(args))


@pytest.mark.parametrize(("error", "code"), [(CxrError, 1), (TableError, 1), (UsageError, 2)])
def test_an_error_is_its_message_and_its_exit_code(error, code):
    def fail():
        raise error("train.csv, line 3: [bold] is no markup here.")

    result = run(fail)
    assert result.exit_code == code
    assert result.stderr == "error: train.csv, line 3: [bold] is no markup here.\n"
    assert result.stdout == ""


def test_an_interruption_is_said_and_leaves_with_130():
    def interrupted():
        raise KeyboardInterrupt

    result = run(interrupted)
    assert result.exit_code == 130
    assert "interrupted" in result.stderr


def test_our_own_mistakes_keep_their_traceback():
    def mistake():
        raise ZeroDivisionError("ours")

    assert isinstance(run(mistake).exception, ZeroDivisionError)


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_numbers_that_are_none_are_refused_by_every_command(value):
    """``benchmark.py quality --minutes inf`` measured its pace, and then ended in a traceback."""

    def command(
        share: Annotated[float, typer.Option()] = 0.5,
        scales: Annotated[list[float] | None, typer.Option("--scale")] = None,
    ):
        raise AssertionError("it ran")

    for option in ("--share", "--scale"):
        result = run(command, option, value)
        assert result.exit_code == 2
        assert result.stderr == f"error: {option} {value}: expected a finite number.\n"


def test_one_cfg_options_takes_several_values():
    seen = {}

    def command(
        name: str,
        cfg_options: list[str] = typer.Option([], "--cfg-options"),  # noqa: B008
        flag: bool = False,
    ):
        seen.update(name=name, cfg_options=cfg_options, flag=flag)

    assert run(command, "--cfg-options", "a=1", "b.c=(1,2)", "d=x", "--flag", "config").exit_code == 0
    assert seen == {"name": "config", "cfg_options": ["a=1", "b.c=(1,2)", "d=x"], "flag": True}
    assert run(command, "config", "--cfg-options", "a=1", "--cfg-options", "b=2").exit_code == 0
    assert seen["cfg_options"] == ["a=1", "b=2"]


def every_command(command, *path):
    """Yield the command line and the object of each command below ``command``."""
    for name, inner in command.commands.items():
        if hasattr(inner, "commands"):
            yield from every_command(inner, *path, name)
        else:
            yield (*path, name), inner


COMMANDS = dict(every_command(typer.main.get_command(build_app())))


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_an_option_given_twice_collects_or_is_refused(path):
    """A second --destination replaced the first in silence."""
    for option in COMMANDS[path].params:
        if option.param_type_name != "option" or option.is_eager:
            continue
        value = [] if option.is_flag else ["1=1"] * option.nargs
        names = [*option.opts, *option.secondary_opts]
        args = [names[0], *value, names[-1], *value]
        message, code = "", 2
        try:
            COMMANDS[path].make_context(" ".join(path), args)  # parses, and runs nothing
        except Exception as error:  # typer brings click's classes along
            message, code = error.message, error.exit_code
        refusal = f"{'/'.join(names)} is given 2 times, but takes one value; give it once."
        assert code == 2
        assert (message == refusal) is not option.multiple


def test_progress_is_silent_without_a_terminal(capsys):
    with progress_bar("working") as progress:
        progress(1, 2)
        progress(1, 2)
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""


def test_progress_counts_up_in_a_terminal(monkeypatch):
    screen = io.StringIO()
    monkeypatch.setattr(shared, "is_terminal", lambda: True)
    monkeypatch.setattr(shared, "stderr", Console(file=screen, force_terminal=True, width=80))
    with progress_bar("working") as progress:
        for _ in range(3):
            progress(2, 6)
    assert "working" in screen.getvalue()
    assert "6/6" in screen.getvalue()


def test_progress_tells_rate_and_time_left_of_what_comes_after_an_earlier_run(monkeypatch):
    screen, now = io.StringIO(), [0.0]
    monkeypatch.setattr(shared, "is_terminal", lambda: True)
    monkeypatch.setattr(shared, "stderr", Console(file=screen, force_terminal=True, width=100, get_time=lambda: now[0]))
    with progress_bar("working") as progress:
        progress(900, 1000)  # were there already
        for _ in range(20):
            now[0] += 0.5
            progress(1, 1000)
    assert "920/1000" in screen.getvalue()
    assert " 2/s" in screen.getvalue().replace("2.0", "2")
    assert "0:00:40" in screen.getvalue()  # 80 are left


def test_a_flag_shows_no_type_in_the_help():
    def build(
        force: Annotated[bool, typer.Option("--force", help="Overwrite.")] = False,
        count: Annotated[int, typer.Option(help="How many.")] = 1,
    ):
        pass

    shown = run(build, "--help").output.lower()
    assert "--force" in shown
    assert "bool" not in shown
    assert "int" in shown


def test_no_flag_of_a_group_or_command_shows_a_type():
    shown = [CliRunner().invoke(build_app(), [*tool, "--help"]).stdout for tool in ((), ("evaluate",), ("dicom_node",))]
    assert all("--help" in text and "<bool>" not in text for text in shown)


def test_a_rank_waits_while_another_writes_the_cache_of_yapf(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [EOFError("Ran out of input"), pickle.UnpicklingError("pickle data was truncated")]
    asked = []

    def import_module(name: str) -> None:
        asked.append(name)
        if answers:
            raise answers.pop()

    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(shared.importlib, "import_module", import_module)
    with shared.quiet_imports():
        pass
    assert asked == ["yapf.yapflib.yapf_api"] * 3
