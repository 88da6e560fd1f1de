"""``evaluate``: COCO ground truth and detections in, scores out; needs no model and no GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from cxr_mmdet.cli import evaluate_compare, evaluate_files
from cxr_mmdet.cli.app import CxrTyper, stderr, stdout
from cxr_mmdet.cli.evaluation_inputs import (
    Criterion,
    Detections,
    Force,
    GroundTruth,
    Images,
    PAbnormal,
    Resamples,
    Seed,
    Title,
    find_configs,
    find_images,
    read_results,
    read_scored_truth,
    refuse_to_overwrite,
)
from cxr_mmdet.structures.enums import HitCriterion

METRICS_FILE, REPORT_FILE = "metrics.json", "report.html"


class RunByDefault(TyperGroup):
    """Takes ``GT DETECTIONS`` without a verb for ``run GT DETECTIONS``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse ``args``; a first one that is a file and no verb is the ground truth of ``run``."""
        if args and args[0] not in self.commands and Path(args[0]).is_file():
            args = ["run", *args]
        return super().parse_args(ctx, args)


app = CxrTyper(no_args_is_help=True, cls=RunByDefault)


@app.callback()
def evaluate() -> None:
    """Score detections against ground truth, both in COCO's format."""


@app.command(no_args_is_help=True)
def run(
    ground_truth: GroundTruth,
    detections: Detections,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", file_okay=False, help=f"Write {METRICS_FILE} and {REPORT_FILE} here."),
    ] = None,
    images: Images = None,
    p_abnormal: PAbnormal = None,
    criterion: Criterion = HitCriterion.IOU,
    score_threshold: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="Where the confusion matrix and the pictures cut.",
            show_default="one false positive per image",
        ),
    ] = None,
    resamples: Resamples = 1000,
    seed: Seed = 0,
    manifest: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            exists=True,
            dir_okay=False,
            help="manifest.json with the readers' own scores.",
            show_default="that of the prepared folder",
        ),
    ] = None,
    title: Title = "Detector report",
    force: Force = False,
) -> None:
    """Print how good a detector is, with the uncertainty; write metrics and a report."""
    from cxr_mmdet.evaluation.ceiling import find_ceiling
    from cxr_mmdet.evaluation.evaluate import take_account
    from cxr_mmdet.evaluation.terminal import headline_table, metrics_table, operating_note

    if out:
        refuse_to_overwrite(force, out / METRICS_FILE, out / REPORT_FILE)
    truth = read_scored_truth(ground_truth)
    found, given = read_results(detections, truth, p_abnormal)
    account = take_account(
        truth,
        found,
        p_abnormal=given,
        criterion=criterion,
        score_threshold=score_threshold,
        resamples=resamples,
        seed=seed,
        ceiling=find_ceiling(ground_truth.resolve(), truth, manifest),
    )
    if out:
        from cxr_mmdet.evaluation.report import Background, write_report
        from cxr_mmdet.files import write_json

        # The page first: what can still go wrong is a picture, and then nothing shall be written.
        write_report(
            out / REPORT_FILE,
            account,
            truth,
            found,
            background=Background(ground_truth.name, (detections.name,), find_configs(detections)),
            image_dir=images or find_images(ground_truth, truth),
            title=title,
        )
        write_json(out / METRICS_FILE, account.to_metrics(), indent=2)
    stdout.print(metrics_table(account.coco))
    stdout.print(headline_table(account))
    stdout.print(operating_note(account), highlight=False)
    if out:
        for name in (METRICS_FILE, REPORT_FILE):
            stderr.print(f"wrote {out / name}", highlight=False)


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
    title: Title = "Chest X-ray detections",
    force: Force = False,
) -> None:
    """Write a page that shows ground truth and detections side by side."""
    from cxr_mmdet.evaluation.coco import evaluate_coco
    from cxr_mmdet.evaluation.gallery import write_gallery
    from cxr_mmdet.structures.coco import read_coco

    refuse_to_overwrite(force, out)
    truth = read_coco(ground_truth, strict=False)
    found, _ = read_results(detections, truth, None)
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


app.command(no_args_is_help=True)(evaluate_compare.compare)
app.command(no_args_is_help=True)(evaluate_files.submission)
app.command(no_args_is_help=True)(evaluate_files.thresholds)
