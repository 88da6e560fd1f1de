import os
import re
import subprocess
import sys
from types import SimpleNamespace

import pytest
import typer
from typer.testing import CliRunner

from cxr_mmdet import __version__
from cxr_mmdet.cli import main
from cxr_mmdet.cli.app import CxrTyper


@pytest.fixture
def cxr(monkeypatch):
    """``cxr`` with one tool of one command and one of two."""
    single, several = CxrTyper(), CxrTyper()

    @single.command()
    def run(config: str) -> None:
        typer.echo(f"single {config}")

    @several.command()
    def build(source: str) -> None:
        typer.echo(f"build {source}")

    @several.command()
    def check() -> None:
        typer.echo("check")

    tools = {"cxr_mmdet.cli.single": single, "cxr_mmdet.cli.several": several}
    monkeypatch.setattr(main, "TOOLS", ("single", "several"))
    importer = SimpleNamespace(import_module=lambda name: SimpleNamespace(app=tools[name]))
    monkeypatch.setattr(main, "importlib", importer)
    return lambda *args: CliRunner().invoke(main.build_app(), args)


def test_a_tool_of_one_command_runs_under_its_own_name(cxr):
    """``cxr train retina_5cls``, not ``cxr train train retina_5cls``."""
    assert cxr("single", "retina_5cls").stdout == "single retina_5cls\n"


def test_a_tool_of_several_commands_keeps_them(cxr):
    assert cxr("several", "build", "folder").stdout == "build folder\n"


def test_help_names_every_tool(cxr):
    result = cxr("--help")
    assert "single" in result.stdout
    assert "several" in result.stdout


def commands_of(command, path=()):
    yield path
    for name, below in getattr(command, "commands", {}).items():
        yield from commands_of(below, (*path, name))


def test_no_help_is_cut_off_at_80_columns():
    """`export --help` showed `--trust-checkpo…`, and long words of descriptions and defaults ended in dots."""
    app = main.build_app()
    paths = list(commands_of(typer.main.get_command(app)))
    assert ("report", "write") in paths
    for path in paths:
        narrow, wide = (
            CliRunner().invoke(app, [*path, "--help"], env={"COLUMNS": str(columns)}).stdout for columns in (80, 400)
        )
        assert max(map(len, narrow.splitlines())) <= 80
        for option in re.findall(r"^│[ *]+(--[\w-]+)", wide, re.MULTILINE):
            assert option in narrow, path
        # Folding moves characters to other places, but loses none.
        assert sorted(re.sub(r"[\s│╭╮╰╯─]", "", narrow)) == sorted(re.sub(r"[\s│╭╮╰╯─]", "", wide)), path


def test_version_and_completion(cxr):
    assert cxr("--version").stdout == f"cxr_mmdet {__version__}\n"
    assert "--install-completion" in cxr("--help").stdout


def test_the_package_is_a_command():
    command = [sys.executable, "-m", "cxr_mmdet", "predict", "--no-such-option"]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    assert finished.returncode == 2
    assert "no-such-option" in finished.stderr


def test_the_shell_completes_the_names_of_tools():
    code = "import sys; sys.argv = ['cxr']; from cxr_mmdet.cli.main import main; main()"
    environment = {"_CXR_COMPLETE": "complete_bash", "COMP_WORDS": "cxr pre", "COMP_CWORD": "1"}
    finished = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | environment, capture_output=True, text=True, check=False
    )
    assert sorted(finished.stdout.split()) == ["predict", "prepare_data", "pretrain"]
