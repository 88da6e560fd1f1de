import pytest
import typer
from typer.testing import CliRunner

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
    monkeypatch.setattr(main.importlib, "import_module", lambda name: type("Module", (), {"app": tools[name]}))
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
