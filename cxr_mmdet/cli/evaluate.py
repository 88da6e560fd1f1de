"""``evaluate``: COCO ground truth and detections in, scores out; needs no model and no GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cxr_mmdet.cli.app import CxrTyper, stderr, stdout
from cxr_mmdet.errors import DatasetError, UsageError

METRICS_FILE = "metrics.json"

app = CxrTyper(no_args_is_help=True)


@app.callback()
def evaluate() -> None:
    """Score detections against ground truth, both in COCO's format."""


@app.command(no_args_is_help=True)
def run(
    ground_truth: Annotated[
        Path, typer.Argument(metavar="GT", exists=True, dir_okay=False, help="COCO annotation file.")
    ],
    detections: Annotated[
        Path,
        typer.Argument(metavar="DETECTIONS", exists=True, dir_okay=False, help="COCO results of any detector."),
    ],
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", file_okay=False, help=f"Write {METRICS_FILE} here.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help=f"Replace an earlier {METRICS_FILE}.")] = False,
) -> None:
    """Print mAP@[.5:.95], mAP@.5 and the scores of each finding."""
    from cxr_mmdet.evaluation.coco import evaluate_coco
    from cxr_mmdet.evaluation.results import read_detections, read_ground_truth
    from cxr_mmdet.evaluation.report import metrics_table
    from cxr_mmdet.files import write_json

    target = out / METRICS_FILE if out else None
    if target and target.exists() and not force:
        raise UsageError(f"{target} exists; pass --force to replace it, or name another folder with --out.")
    truth = read_ground_truth(ground_truth)
    if not truth["annotations"]:
        raise DatasetError(f"{ground_truth}: holds no boxes, so there is nothing to score against.")
    scores = evaluate_coco(truth, read_detections(detections, truth))
    stdout.print(metrics_table(scores))
    if target:
        write_json(target, scores.to_metrics(), indent=2)
        stderr.print(f"wrote {target}", highlight=False)
