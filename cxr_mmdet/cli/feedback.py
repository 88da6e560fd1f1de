"""``feedback``: export verdicts as a readers' table to train on; import reports that a viewer corrected as verdicts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cxr_mmdet.cli.app import CxrTyper, ReplaceOption, print_failures, progress_bar, refuse_to_overwrite, stderr, stdout
from cxr_mmdet.errors import UsageError, counted

if TYPE_CHECKING:
    from cxr_mmdet.web.store import Store

app = CxrTyper(no_args_is_help=True)


@app.callback()
def feedback() -> None:
    """Export verdicts from a store, or import them from reports corrected in a viewer."""


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
    force: ReplaceOption = False,
) -> None:
    """Write finished readings as a table for prepare_data build: the boxes the reader sees, or "No finding".

    Each reader's latest reading of a radiograph counts.
    """
    refuse_to_overwrite(force, out, inputs=(append_to, Path(store), *Path(store).glob("*.sqlite")))
    from cxr_mmdet.web.feedback import export_feedback

    kept = _open(store)
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
        reason = "names unknown; pass --images" if images is None else f"{images} does not hold their radiographs"
        stderr.print(f"omitted: {counted(summary.unknown, 'reading')}; {reason}", highlight=False)
    stderr.print(f"{counted(summary.rows, 'row')} of {counted(summary.images, 'radiograph')}", highlight=False)
    stdout.print(out, highlight=False)


@app.command("import", no_args_is_help=True)
def import_(
    store: Annotated[str, typer.Argument(metavar="STORE", help="Folder or database URL, made where needed.")],
    reports: Annotated[
        list[Path],
        typer.Argument(
            metavar="REPORT…",
            exists=True,
            help="Reports stored by a viewer, and the model's reports that they correct: files or folders.",
        ),
    ],
    images: Annotated[
        Path, typer.Option(exists=True, file_okay=False, help="Folder of the radiographs, as for prepare_data build.")
    ],
    reader: Annotated[
        str | None, typer.Option(help="Name of the reader.", show_default="each report's Person Observer Name")
    ] = None,
) -> None:
    """Add structured reports that readers corrected in OHIF or another viewer to the verdicts in a store.

    Moved corners and renamed boxes are corrections, deleted boxes are rejected, added boxes are missed findings. A
    report that cannot be imported is named, the others are imported, and the exit code is 1.
    """
    try:
        from cxr_mmdet.web.corrected_reports import import_reports
    except ModuleNotFoundError as error:
        raise UsageError(f"reports need {error.name}: pip install 'cxr-mmdet[serve,pacs]'") from None

    summary = import_reports(store, reports, images, reader)
    print_failures(summary.problems)
    if summary.ignored:
        stderr.print(f"ignored: {counted(summary.ignored, 'annotation')} without an area", highlight=False)
    if summary.known:
        stderr.print(f"{counted(summary.known, 'reading')} in the store already", highlight=False)
    stderr.print(f"{counted(summary.readings, 'reading')} added", highlight=False)
    if summary.readings or summary.known:
        stdout.print(store, highlight=False)
    if summary.problems:
        raise typer.Exit(1)


def _open(store: str) -> Store:
    try:
        from cxr_mmdet.web.store import Store
    except ModuleNotFoundError as error:
        raise UsageError(f"the store needs {error.name}: pip install 'cxr-mmdet[serve]'") from None
    return Store.open(store, must_exist=True)
