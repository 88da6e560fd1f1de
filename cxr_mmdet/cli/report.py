"""``report``: write and read findings as DICOM structured reports."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cxr_mmdet.cli.app import (
    CxrTyper,
    DeviceOption,
    ModelArgument,
    ModelShortEdgeOption,
    ReplaceOption,
    TrustOption,
    progress_bar,
    quiet_imports,
    refuse_to_overwrite,
    stderr,
    stdout,
)
from cxr_mmdet.errors import CxrError
from cxr_mmdet.structures.enums import DEFAULT_SCORE_THRESHOLD

app = CxrTyper(no_args_is_help=True)


@app.callback()
def report() -> None:
    """Write and read findings as DICOM structured reports."""


@app.command(no_args_is_help=True)
def write(
    model: ModelArgument,
    inputs: Annotated[
        list[str], typer.Argument(metavar="INPUT…", help="DICOM radiographs: files, folders, patterns, zip archives.")
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", file_okay=False, help="Output folder.")],
    score_threshold: Annotated[
        float, typer.Option(min=0, max=1, help="Lowest score of findings that are reported.")
    ] = DEFAULT_SCORE_THRESHOLD,
    capture: Annotated[
        bool, typer.Option("--capture/--no-capture", help="Also write the overlay as a Secondary Capture.")
    ] = True,
    overlay_size: Annotated[int, typer.Option(min=64, help="Maximum longer side of the overlay in pixels.")] = 2048,
    capture_quality: Annotated[
        int,
        typer.Option(min=0, max=100, help="JPEG quality of the overlay; 0: uncompressed, about ten times as large."),
    ] = 95,
    presentation: Annotated[
        bool,
        typer.Option(
            "--presentation", help="Also write a presentation state, which shows the findings over the original."
        ),
    ] = False,
    device: DeviceOption = "cpu",
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads.", show_default="all cores")] = None,
    short_edge: ModelShortEdgeOption = None,
    trust_checkpoint: TrustOption = False,
    force: ReplaceOption = False,
) -> None:
    """Predict radiographs and write a structured report (.sr.dcm) and a Secondary Capture (.sc.dcm) for each.

    --presentation adds a Grayscale Softcopy Presentation State (.pr.dcm) for radiographs that are not in colour.

    Reports belong to the patient and the study of their radiograph. A file that cannot be reported on is named, the
    other files are reported on, and the exit code is 1.
    """
    import datetime

    from cxr_mmdet.dicom.report import to_bytes
    from cxr_mmdet.files import write_together
    from cxr_mmdet.inference.predictor import Predictor
    from cxr_mmdet.pacs.reporting import ReportOptions, describe_findings, predict_content, quiet_libraries
    from cxr_mmdet.structures.radiograph_files import find_radiographs

    quiet_libraries()
    items = find_radiographs(inputs)
    refuse_to_overwrite(force, *(out / f"{item.image_id}.sr.dcm" for item in items))
    with quiet_imports():
        predictor = Predictor.load(
            model, device=device, threads=threads, trust_checkpoint=trust_checkpoint, short_edge=short_edge
        )
    options = ReportOptions(score_threshold, overlay_size, capture, capture_quality or None, presentation=presentation)
    out.mkdir(parents=True, exist_ok=True)
    failures = 0
    with progress_bar("reporting") as progress:
        for item in items:
            try:
                prediction = predict_content(predictor, item.read(), item.source, options)
                made = describe_findings(prediction, options, datetime.datetime.now())
            except CxrError as error:
                stderr.print(f"failed: {error}", style="red", markup=False, highlight=False)
                failures += 1
                continue
            # The report last: where it is, the others are.
            parts = {"pr": made.presentation, "sc": made.capture, "sr": made.report}
            paths = {end: out / f"{item.image_id}.{end}.dcm" for end in parts}
            for end in parts:  # those of an earlier run would show other findings
                paths[end].unlink(missing_ok=True)
            write_together({paths[end]: to_bytes(each) for end, each in parts.items() if each is not None})
            progress(1, len(items))
    stdout.print(out, highlight=False)
    if failures:
        raise typer.Exit(1)


@app.command(no_args_is_help=True)
def read(
    file: Annotated[
        Path,
        typer.Argument(metavar="SR", exists=True, dir_okay=False, help="Structured report written by this project."),
    ],
) -> None:
    """Print the findings of a structured report as JSON, with boxes in pixels of the radiograph."""
    import json

    from cxr_mmdet.dicom.report import read_structured_report

    findings, sop_instance_uid = read_structured_report(file)
    document = {**findings.to_json(), "source_sop_instance_uid": sop_instance_uid}
    stdout.print_json(json.dumps(document, sort_keys=True))
