"""``cxr``: every tool as a sub-command, for people who installed the wheel and have no ``tools`` folder."""

from __future__ import annotations

import copy
import importlib
from typing import Annotated

import typer

from cxr_mmdet import __version__
from cxr_mmdet.cli.app import CxrTyper

TOOLS = (
    "prepare_data",
    "config",
    "browse",
    "pretrain",
    "train",
    "test",
    "evaluate",
    "predict",
    "export",
    "ensemble",
    "serve",
    "feedback",
    "report",
    "dicom_node",
    "doctor",
)


def build_app() -> typer.Typer:
    """Return the app that holds the app of each tool under its name."""
    app = CxrTyper(name="cxr", no_args_is_help=True, add_completion=True)
    app.callback()(_cxr)
    for name in TOOLS:
        _add_tool(app, name, importlib.import_module(f"cxr_mmdet.cli.{name}").app)
    return app


def _add_tool(app: typer.Typer, name: str, tool: typer.Typer) -> None:
    """Add a tool under its name; typer by itself would ask for ``cxr train train`` where a tool has one command."""
    if tool.registered_callback is not None or len(tool.registered_commands) > 1:
        app.add_typer(tool, name=name)
        return
    command = copy.copy(tool.registered_commands[0])
    command.name = name
    app.registered_commands.append(command)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"cxr_mmdet {__version__}")
        raise typer.Exit


def _cxr(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Chest X-ray abnormality detection."""


def main() -> None:
    """Run ``cxr``."""
    build_app()()
