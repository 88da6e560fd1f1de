"""``cxr``: every tool as a sub-command, for people who installed the wheel and have no ``tools`` folder."""

from __future__ import annotations

import copy
import importlib

import typer

from cxr_mmdet.cli.app import CxrTyper

TOOLS = (
    "prepare_data",
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
    app = CxrTyper(name="cxr", no_args_is_help=True, help="Chest X-ray abnormality detection.")
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


def main() -> None:
    """Run ``cxr``."""
    build_app()()
