"""``cxr``: every tool as a sub-command, for people who installed the wheel and have no ``tools`` folder."""

from __future__ import annotations

import importlib

import typer

from cxr_mmdet.cli.app import CxrTyper

TOOLS = ("prepare_data", "train", "test", "evaluate", "doctor", "benchmark")


def build_app() -> typer.Typer:
    """Return the app that holds the app of each tool under its name."""
    app = CxrTyper(name="cxr", no_args_is_help=True, help="Chest X-ray abnormality detection.")
    for name in TOOLS:
        app.add_typer(importlib.import_module(f"cxr_mmdet.cli.{name}").app, name=name)
    return app


def main() -> None:
    """Run ``cxr``."""
    build_app()()
