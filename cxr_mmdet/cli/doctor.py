"""``doctor``: check the installation and suggest remedies."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from cxr_mmdet.cli.app import CxrTyper, stdout

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from cxr_mmdet.doctor import Check

app = CxrTyper()

STYLES = {"ok": "green", "note": "cyan", "warning": "yellow", "error": "bold red"}


@app.command()
def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print the checks as JSON.")] = False,
) -> None:
    """Check whether training can run on this machine, and suggest remedies where it cannot."""
    import dataclasses
    import json

    from cxr_mmdet.doctor import can_train, examine

    checks = examine()
    ready = can_train(checks)
    if as_json:
        report = {"can_train": ready, "checks": [dataclasses.asdict(check) for check in checks]}
        typer.echo(json.dumps(report, indent=2, sort_keys=True, ensure_ascii=False))
    else:
        stdout.print(_table(checks))
        stdout.print(_verdict(ready), markup=True, highlight=False)
    raise typer.Exit(0 if ready else 1)


def _table(checks: Sequence[Check]) -> Table:
    """Return a table with one row per check and its remedy below."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for header in ("", "check", "found"):
        table.add_column(header, overflow="fold")
    group = None
    for check in checks:
        if check.group != group:
            group = check.group
            table.add_section()
            table.add_row("", f"[bold]{group}[/bold]", "")
        style = STYLES[check.status.value]
        found = escape(check.value)
        if check.remedy:
            found += f"\n[{style}]-> {escape(check.remedy)}[/{style}]"
        table.add_row(f"[{style}]{check.status.value}[/{style}]", escape(check.name), found)
    return table


def _verdict(ready: bool) -> str:
    if ready:
        return "[bold green]Training can run here.[/bold green]"
    return "[bold red]Training cannot run here[/bold red]: see the errors above and their remedies."
