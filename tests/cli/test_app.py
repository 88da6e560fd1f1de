"""What every command shares."""

import errno
import io
import os
import pickle
from pathlib import Path
from typing import Annotated

import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

from cxr_mmdet.cli import app as shared
from cxr_mmdet.cli.app import CxrTyper, progress_bar, refuse_to_overwrite
from cxr_mmdet.cli.main import build_app
from cxr_mmdet.errors import CxrError, TableError, UsageError
from cxr_mmdet.files import write_json


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


@pytest.mark.parametrize("code", [errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR])
def test_a_path_that_the_system_refuses_is_a_sentence(code):
    """``--out`` in a folder of somebody else's ended in a traceback, after the work was done."""

    def refused():
        raise OSError(code, os.strerror(code), "there/out.json")

    result = run(refused)
    assert result.exit_code == 1
    assert result.stderr.startswith(f"error: there/out.json: cannot be used ({os.strerror(code)}); correct the path")


def test_a_path_that_cannot_be_one_is_named_and_not_the_temporary_file(tmp_path):
    target = tmp_path / f"{'x' * 240}.{'y' * 40}"
    result = run(lambda: write_json(target, {}))
    assert result.stderr.startswith(f"error: {target}: cannot be used (File name too long)")


class TestRefusingToOverwrite:
    def test_what_a_command_reads_is_never_replaced(self, tmp_path):
        """``ensemble … --coco truth.json --out truth.json --force`` replaced the ground truth."""
        table, other, link = tmp_path / "t.csv", tmp_path / "o.csv", tmp_path / "link.csv"
        table.touch(), other.touch(), link.symlink_to(table)
        for target in (table, link, tmp_path / "x" / ".." / "t.csv"):
            (tmp_path / "x").mkdir(exist_ok=True)
            with pytest.raises(UsageError, match=r"is read by this command and would be lost; choose another place"):
                refuse_to_overwrite(True, other, target, inputs=(None, tmp_path / "gone", table))
        refuse_to_overwrite(True, other, inputs=(table,))

    @pytest.mark.parametrize(
        "line",
        [
            ("ensemble", "OTHER", "--coco", "FILE"),
            ("ensemble", "FILE", "--coco", "OTHER"),
            ("prepare_data", "annotations", "FILE"),
        ],
        ids=" ".join,
    )
    def test_by_the_commands_that_fuse(self, tmp_path, line):
        files = {"FILE": tmp_path / "file", "OTHER": tmp_path / "other"}
        for file in files.values():
            file.write_text("kept")
        args = [str(files.get(each, each)) for each in (*line, "--out", "FILE", "--force")]
        result = CliRunner().invoke(build_app(), args)
        assert (result.exit_code, files["FILE"].read_text()) == (2, "kept")
        assert "is read by this command" in result.stderr

    def test_below_a_file(self, tmp_path):
        (tmp_path / "file").touch()
        for target in (tmp_path / "file" / "out.json", tmp_path / "file" / "deep" / "out.json"):
            with pytest.raises(UsageError, match=r"out\.json: cannot be written, since .*file is a file"):
                refuse_to_overwrite(False, target)

    def test_a_folder_without_permission(self, tmp_path, monkeypatch):
        monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)
        with pytest.raises(UsageError, match=r"out\.json: cannot be written to .* \(no permission\)"):
            refuse_to_overwrite(False, tmp_path / "new" / "out.json")

    def test_a_new_folder_is_not_made_yet(self, tmp_path):
        refuse_to_overwrite(False, tmp_path / "new" / "out.json")
        assert not (tmp_path / "new").exists()


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
