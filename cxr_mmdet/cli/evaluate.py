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


GroundTruth = Annotated[Path, typer.Argument(metavar="GT", exists=True, dir_okay=False, help="COCO annotation file.")]
Detections = Annotated[
    Path, typer.Argument(metavar="DETECTIONS", exists=True, dir_okay=False, help="COCO results of any detector.")
]
Force = Annotated[bool, typer.Option("--force", help="Replace an earlier file.")]


@app.command(no_args_is_help=True)
def run(
    ground_truth: GroundTruth,
    detections: Detections,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", file_okay=False, help=f"Write {METRICS_FILE} here.")
    ] = None,
    force: Force = False,
) -> None:
    """Print mAP@[.5:.95], mAP@.5 and the scores of each finding."""
    from cxr_mmdet.evaluation.coco import evaluate_coco
    from cxr_mmdet.evaluation.results import read_detections, read_ground_truth
    from cxr_mmdet.evaluation.terminal import metrics_table
    from cxr_mmdet.files import write_json

    target = out / METRICS_FILE if out else None
    _refuse_to_overwrite(target, force)
    truth = read_ground_truth(ground_truth)
    if not truth["annotations"]:
        raise DatasetError(f"{ground_truth}: holds no boxes, so there is nothing to score against.")
    scores = evaluate_coco(truth, read_detections(detections, truth))
    stdout.print(metrics_table(scores))
    if target:
        write_json(target, scores.to_metrics(), indent=2)
        stderr.print(f"wrote {target}", highlight=False)


@app.command(no_args_is_help=True)
def gallery(
    ground_truth: GroundTruth,
    detections: Detections,
    images: Annotated[
        Path, typer.Option(metavar="DIR", exists=True, file_okay=False, help="Folder of the prepared images.")
    ],
    out: Annotated[Path, typer.Option(metavar="FILE", dir_okay=False, help="The page to write, one HTML file.")],
    count: Annotated[int, typer.Option(min=1, help="How many radiographs to show.")] = 12,
    score_threshold: Annotated[float, typer.Option(min=0, max=1, help="Leave weaker detections out.")] = 0.3,
    title: Annotated[str, typer.Option(help="Heading of the page.")] = "Chest X-ray detections",
    force: Force = False,
) -> None:
    """Write a page that shows ground truth and detections side by side."""
    from cxr_mmdet.evaluation.coco import evaluate_coco
    from cxr_mmdet.evaluation.gallery import write_gallery
    from cxr_mmdet.evaluation.results import read_detections, read_ground_truth

    _refuse_to_overwrite(out, force)
    truth = read_ground_truth(ground_truth)
    found = read_detections(detections, truth)
    write_gallery(
        out,
        truth,
        found,
        images,
        scores=evaluate_coco(truth, found),
        images=count,
        score_threshold=score_threshold,
        title=title,
    )
    stdout.print(out, highlight=False)


def _refuse_to_overwrite(target: Path | None, force: bool) -> None:
    if target and target.exists() and not force:
        raise UsageError(f"{target} exists; pass --force to replace it, or choose another place with --out.")
