"""``evaluate submission`` and ``evaluate thresholds``: detections turned into something to hand on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cxr_mmdet.cli.app import stderr, stdout
from cxr_mmdet.cli.evaluation_inputs import (
    Criterion,
    Detections,
    Force,
    GroundTruth,
    PAbnormal,
    read_results,
    read_scored_truth,
    refuse_to_overwrite,
)
from cxr_mmdet.errors import UsageError
from cxr_mmdet.structures.enums import HitCriterion


def submission(
    ground_truth: Annotated[
        Path,
        typer.Argument(
            metavar="GT", exists=True, dir_okay=False, help="COCO file that lists the images; it needs no boxes."
        ),
    ],
    detections: Detections,
    out: Annotated[Path, typer.Option(metavar="FILE", dir_okay=False, help="The CSV file to write.")],
    p_abnormal: PAbnormal = None,
    force: Force = False,
) -> None:
    """Write VinBigData's submission.csv, in pixels of the source images."""
    from cxr_mmdet.evaluation.image_level import score_images
    from cxr_mmdet.evaluation.matching import DetectionTable, TruthTable
    from cxr_mmdet.evaluation.submission import write_submission
    from cxr_mmdet.structures.coco import read_coco

    refuse_to_overwrite(force, out)
    truth = read_coco(ground_truth, strict=False)
    found, given = read_results(detections, truth, p_abnormal)
    scores = score_images(TruthTable.of(truth), DetectionTable.of(truth, found), given)
    left_out = write_submission(out, truth, found, scores.p_abnormal)
    if left_out:
        which = f"{left_out:,} of {len(found):,} detections"
        stderr.print(f"note: {which} lie wholly outside their image and were left out.", highlight=False)
    stdout.print(out, highlight=False)


def thresholds(
    ground_truth: GroundTruth,
    detections: Detections,
    sensitivity: Annotated[
        float | None, typer.Option(min=0, max=1, help="Find at least this share of each class's boxes.")
    ] = None,
    fp_rate: Annotated[
        float | None, typer.Option(min=0, help="Allow each class this many false positives per image.")
    ] = None,
    criterion: Criterion = HitCriterion.IOU,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", dir_okay=False, help="Write them as JSON as well.")
    ] = None,
    force: Force = False,
) -> None:
    """Print the score to cut each class at, for a sensitivity or for a number of false positives an image."""
    from cxr_mmdet.evaluation.froc import threshold_for_false_positives, threshold_for_sensitivity
    from cxr_mmdet.evaluation.matching import match_detections
    from cxr_mmdet.evaluation.terminal import thresholds_table
    from cxr_mmdet.files import write_json

    if (sensitivity is None) == (fp_rate is None):
        raise UsageError("pass one of --sensitivity and --fp-rate.")
    if out:
        refuse_to_overwrite(force, out)
    truth = read_scored_truth(ground_truth)
    found, _ = read_results(detections, truth, None)
    matches = match_detections(truth, found, criterion=criterion)
    if sensitivity is not None:
        goal = f"at least {sensitivity:g} of the boxes found"
        cuts = [threshold_for_sensitivity(entry, sensitivity) for entry in matches]
    else:
        assert fp_rate is not None, "one of the two was given"
        goal = f"at most {fp_rate:g} false positives per image"
        cuts = [threshold_for_false_positives(entry, fp_rate) for entry in matches]
    if out:
        write_json(
            out, {"goal": goal, "criterion": criterion.value, "thresholds": [c.to_json() for c in cuts]}, indent=2
        )
    stdout.print(thresholds_table(f"Thresholds for {goal}", cuts))
    if out:
        stderr.print(f"wrote {out}", highlight=False)
