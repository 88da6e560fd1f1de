"""``prepare_data images|doctor``: a folder of radiographs as pictures, and what is in it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cxr_mmdet.cli.app import CxrTyper, progress_bar, stderr, stdout

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cxr_mmdet.preparation.images import Failure

app = CxrTyper()

SHOWN_FAILURES = 20

JobsOption = Annotated[int, typer.Option(min=1, help="Worker processes.")]
DaskOption = Annotated[
    str | None,
    typer.Option(
        "--dask",
        metavar="SCHEDULER",
        help="Work on a Dask cluster instead, as tcp://host:8786; its workers see the same paths.",
    ),
]
ShortEdgeOption = Annotated[int, typer.Option(min=0, help="Shorter side at most, in pixels; 0: full size.")]
ReducedOption = Annotated[
    bool,
    typer.Option(
        "--reduced-jpeg2000",
        help="Decode JPEG 2000 no larger than --short-edge needs: several times faster, grey levels differ slightly.",
    ),
]
MaxFailuresOption = Annotated[int, typer.Option(min=0, help="So many radiographs may fail before the exit code is 1.")]


@app.command(no_args_is_help=True)
def images(
    src: Annotated[
        Path,
        typer.Argument(metavar="SRC", exists=True, file_okay=False, help="Holds the radiographs, or train/ with them."),
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The folder to write.")],
    short_edge: ShortEdgeOption = 1024,
    reduced_jpeg2000: ReducedOption = False,
    max_failures: MaxFailuresOption = 0,
    jobs: JobsOption = 1,
    dask: DaskOption = None,
) -> None:
    """Render the radiographs alone, to OUT/images/<image_id>.png; build on the same OUT goes on from there.

    A second run renders only what is missing or has changed, after Ctrl-C too. Radiographs that cannot be read are
    listed in failures.csv and make the exit code 1 unless --max-failures allows them.
    """
    from cxr_mmdet.preparation.folder import FAILURES_NAME, IMAGES, prepare_folder
    from cxr_mmdet.preparation.images import image_notes
    from cxr_mmdet.preparation.parallel import worker_pool

    with worker_pool(jobs, dask) as workers, progress_bar("preparing radiographs") as progress:
        prepared = prepare_folder(
            src, out, short_edge=short_edge, reduced_jpeg2000=reduced_jpeg2000, jobs=workers, progress=progress
        )
    for note in image_notes(prepared.images):
        stderr.print(f"note: {note}", markup=False, highlight=False)
    print_failures(prepared.failures, out / FAILURES_NAME)
    reused = f", {prepared.reused} of them were there already" if prepared.reused else ""
    stderr.print(f"{len(prepared.images)} pictures in {out / IMAGES}{reused}", highlight=False)
    if len(prepared.failures) > max_failures:
        raise typer.Exit(1)


@app.command(no_args_is_help=True)
def doctor(
    src: Annotated[
        Path,
        typer.Argument(metavar="SRC", exists=True, file_okay=False, help="The folder; those below it are read too."),
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print all of it as JSON, every file by name.")] = False,
    jobs: JobsOption = 1,
    dask: DaskOption = None,
) -> None:
    """Say what is in a folder of radiographs, and what would fail; every picture is decoded, nothing is written.

    The exit code is 1 where files are unreadable, or train.csv and the files do not match.
    """
    import dataclasses
    import json

    from cxr_mmdet.preparation.parallel import worker_pool
    from cxr_mmdet.preparation.survey import survey_folder, survey_lines, survey_table

    with worker_pool(jobs, dask) as workers, progress_bar("reading radiographs") as progress:
        survey = survey_folder(src, jobs=workers, progress=progress)
    if as_json:
        report = dataclasses.asdict(survey) | {"is_ready": survey.is_ready}
        typer.echo(json.dumps(report, indent=2, ensure_ascii=False))
    else:
        stdout.print(survey_table(survey))
        for line in survey_lines(survey):
            stdout.print(line, markup=False, highlight=False)
    raise typer.Exit(0 if survey.is_ready else 1)


def print_failures(failures: Sequence[Failure], listing: Path) -> None:
    """Print the first failures, and where all of them stand."""
    for failure in failures[:SHOWN_FAILURES]:
        stderr.print(f"failed: {failure.reason}", style="red", markup=False, highlight=False)
    if failures:
        stderr.print(f"{len(failures)} failed; all in {listing}", style="bold red", highlight=False)
