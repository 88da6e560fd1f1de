"""``prepare_data images|doctor|convert``: render a folder of radiographs, survey it, write it for another tool."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cxr_mmdet.cli.app import CxrTyper, print_failures, print_notes, progress_bar, stderr, stdout
from cxr_mmdet.cli.prepare_data_annotations import FormatOption
from cxr_mmdet.errors import counted

app = CxrTyper()

JobsOption = Annotated[int, typer.Option(min=1, help="Worker processes.")]
DaskOption = Annotated[
    str | None,
    typer.Option(
        "--dask",
        metavar="SCHEDULER",
        help="Dask scheduler, such as tcp://host:8786, to work on a cluster whose workers see the same paths.",
    ),
]
ShortEdgeOption = Annotated[int, typer.Option(min=0, help="Maximum shorter side in pixels; 0: full size.")]
ReducedOption = Annotated[
    bool,
    typer.Option(
        "--reduced-jpeg2000",
        help="Decode JPEG 2000 at the resolution that --short-edge needs: faster; grey levels differ slightly.",
    ),
]
TableOption = Annotated[
    Path | None,
    typer.Option(metavar="FILE", exists=True, help="Annotations elsewhere: a file, or a folder of a tool."),
]
ClipBoxesOption = Annotated[
    bool, typer.Option("--clip-boxes", help="Clip boxes that extend beyond their image instead of refusing them.")
]
MaxFailuresOption = Annotated[
    int, typer.Option(min=0, help="Number of radiographs that may fail before the exit code is 1.")
]


@app.command(no_args_is_help=True)
def images(
    src: Annotated[
        Path,
        typer.Argument(
            metavar="SRC", exists=True, file_okay=False, help="Folder of radiographs, or of train/ with them."
        ),
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Output folder.")],
    short_edge: ShortEdgeOption = 1024,
    reduced_jpeg2000: ReducedOption = False,
    max_failures: MaxFailuresOption = 0,
    jobs: JobsOption = 1,
    dask: DaskOption = None,
) -> None:
    """Render radiographs to OUT/images/<image_id>.png; a later build on the same OUT reuses them.

    A second run renders only what is missing or has changed, also after Ctrl-C. Radiographs that cannot be read are
    listed in failures.csv and make the exit code 1 unless --max-failures allows them.
    """
    from cxr_mmdet.parallel import worker_pool
    from cxr_mmdet.preparation.folder import FAILURES_NAME, IMAGES, prepare_folder
    from cxr_mmdet.preparation.images import image_notes

    with worker_pool(jobs, dask) as workers, progress_bar("preparing radiographs") as progress:
        prepared = prepare_folder(
            src, out, short_edge=short_edge, reduced_jpeg2000=reduced_jpeg2000, jobs=workers, progress=progress
        )
    print_notes(image_notes(prepared.images))
    print_failures([failure.reason for failure in prepared.failures], out / FAILURES_NAME)
    reused = f", {prepared.reused} of them reused" if prepared.reused else ""
    stderr.print(f"{counted(len(prepared.images), 'image')} in {out / IMAGES}{reused}", highlight=False)
    if len(prepared.failures) > max_failures:
        raise typer.Exit(1)


@app.command(no_args_is_help=True)
def doctor(
    src: Annotated[
        Path,
        typer.Argument(metavar="SRC", exists=True, file_okay=False, help="Folder, searched with its subfolders."),
    ],
    format_name: FormatOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON, with every file by name.")] = False,
    jobs: JobsOption = 1,
    dask: DaskOption = None,
) -> None:
    """Survey a folder of radiographs and report what would fail; every image is decoded, nothing is written.

    The exit code is 1 if files are unreadable, or if annotations and files do not match.
    """
    import dataclasses
    import json

    from cxr_mmdet.parallel import worker_pool
    from cxr_mmdet.preparation.survey import survey_folder, survey_lines, survey_table

    with worker_pool(jobs, dask) as workers, progress_bar("reading radiographs") as progress:
        survey = survey_folder(src, format_name=format_name, jobs=workers, progress=progress)
    if as_json:
        report = dataclasses.asdict(survey) | {"is_ready": survey.is_ready}
        typer.echo(json.dumps(report, indent=2, ensure_ascii=False))
    else:
        stdout.print(survey_table(survey))
        for line in survey_lines(survey):
            stdout.print(line, markup=False, highlight=False)
    raise typer.Exit(0 if survey.is_ready else 1)


@app.command(no_args_is_help=True)
def convert(
    src: Annotated[
        Path,
        typer.Argument(
            metavar="SRC", exists=True, file_okay=False, help="Folder of radiographs and their annotations."
        ),
    ],
    out: Annotated[Path, typer.Argument(metavar="DST", help="New folder.")],
    to: Annotated[str, typer.Option("--to", metavar="yolo|coco|labelstudio|cvat|vinbigdata", help="Format to write.")],
    table: TableOption = None,
    format_name: FormatOption = None,
    reader: Annotated[
        str | None, typer.Option(metavar="NAME", help="Convert the readings of this reader alone.")
    ] = None,
    images: Annotated[
        bool,
        typer.Option(
            "--images/--no-images", help="Write images beside the annotations: PNG, for vinbigdata the originals."
        ),
    ] = True,
    clip_boxes: ClipBoxesOption = False,
    max_failures: MaxFailuresOption = 0,
    jobs: JobsOption = 1,
) -> None:
    """Write annotations in the format of another tool; read back, they are the same.

    Notes say what the format cannot hold. PNG files have the full size and name no patient: bring the export of a tool
    back to the radiographs with build SRC OUT --table EXPORT.
    """
    from cxr_mmdet.preparation.convert import convert as convert_annotations

    with progress_bar("writing images" if images else "measuring images") as progress:
        done = convert_annotations(
            src,
            out,
            to,
            table=table,
            format_name=format_name,
            reader=reader,
            with_images=images,
            clip_boxes=clip_boxes,
            jobs=jobs,
            progress=progress,
        )
    print_notes(done.notes)
    print_failures([failure.reason for failure in done.failures])
    stderr.print(f"wrote {counted(done.images, 'image')} to {out} as {to}", highlight=False)
    if len(done.failures) > max_failures:
        raise typer.Exit(1)
