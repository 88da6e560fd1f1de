"""``feedback export``: export verdicts given on the page as a readers' table to train on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cxr_mmdet.cli.app import CxrTyper, progress_bar, stderr, stdout
from cxr_mmdet.errors import UsageError, counted

app = CxrTyper(no_args_is_help=True)


@app.callback()
def feedback() -> None:
    """Export verdicts from a store."""


@app.command(no_args_is_help=True)
def export(
    store: Annotated[str, typer.Argument(metavar="STORE", help="Folder or database URL given to serve --store.")],
    out: Annotated[Path, typer.Argument(metavar="OUT.csv", dir_okay=False, help="Readers' table to write.")],
    images: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            file_okay=False,
            help="Folder of the radiographs, as for prepare_data build; matched by file content, else by pixels.",
            show_default="the names that serve --keep-identity stored",
        ),
    ] = None,
    reader: Annotated[str | None, typer.Option(help="Name of the reader.", show_default="each reader's own")] = None,
    append_to: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="Existing readers' table to extend; its class ids are used."),
    ] = None,
    unfinished: Annotated[
        bool, typer.Option("--unfinished", help="Include unfinished readings; findings without a verdict are omitted.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace OUT.csv.")] = False,
) -> None:
    """Write finished readings as a table for prepare_data build: the boxes the reader sees, or "No finding".

    Each reader's latest reading of a radiograph counts.
    """
    if out.exists() and not force:
        raise UsageError(f"{out}: exists; pass --force to replace it.")
    try:
        from cxr_mmdet.web.store import Store
    except ModuleNotFoundError as error:
        raise UsageError(f"the store needs {error.name}: pip install 'cxr-mmdet[serve]'") from None
    from cxr_mmdet.web.feedback import export_feedback

    kept = Store.open(store, must_exist=True)
    try:
        with progress_bar("comparing radiographs") as progress:
            summary = export_feedback(
                kept.readings(),
                out,
                images=images,
                reader=reader,
                unfinished=unfinished,
                table=append_to,
                progress=progress,
            )
    finally:
        kept.close()
    if summary.unfinished:
        stderr.print(
            f"omitted: {counted(summary.unfinished, 'unfinished reading')}; --unfinished includes them", highlight=False
        )
    if summary.unknown:
        stderr.print(f"names unknown for {counted(summary.unknown, 'reading')}; pass --images", highlight=False)
    stderr.print(f"{counted(summary.rows, 'row')} of {counted(summary.images, 'radiograph')}", highlight=False)
    stdout.print(out, highlight=False)
