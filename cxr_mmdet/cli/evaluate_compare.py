"""``evaluate compare``: two detectors on the same ground truth."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cxr_mmdet.cli.app import stderr, stdout
from cxr_mmdet.cli.evaluation_inputs import (
    Criterion,
    FirstDetections,
    Force,
    GroundTruth,
    Images,
    Resamples,
    SecondDetections,
    Seed,
    Title,
    find_configs,
    find_images,
    read_results,
    read_scored_truth,
    refuse_to_overwrite,
)
from cxr_mmdet.structures.enums import HitCriterion

COMPARISON_FILE, REPORT_FILE = "comparison.json", "report.html"


def compare(
    ground_truth: GroundTruth,
    first: FirstDetections,
    second: SecondDetections,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", file_okay=False, help=f"Write {COMPARISON_FILE} and {REPORT_FILE} here."),
    ] = None,
    names: Annotated[
        tuple[str, str] | None,
        typer.Option(metavar="A B", help="What the detectors are called.", show_default="their files or folders"),
    ] = None,
    images: Images = None,
    p_abnormal: Annotated[
        tuple[Path, Path] | None,
        typer.Option(
            metavar="FILE FILE",
            exists=True,
            dir_okay=False,
            help="Each image's probability of being abnormal, by each.",
        ),
    ] = None,
    criterion: Criterion = HitCriterion.IOU,
    resamples: Resamples = 1000,
    seed: Seed = 0,
    title: Title = "Two detectors",
    force: Force = False,
) -> None:
    """Print how much better B is than A, with the interval and p of each difference."""
    from cxr_mmdet.evaluation.comparison import compare as compare_matched
    from cxr_mmdet.evaluation.evaluate import take_account
    from cxr_mmdet.evaluation.terminal import class_comparison_table, comparison_table

    if out:
        refuse_to_overwrite(force, out / COMPARISON_FILE, out / REPORT_FILE)
    truth = read_scored_truth(ground_truth)
    probabilities = p_abnormal or (None, None)
    found_first, given_first = read_results(first, truth, probabilities[0])
    found_second, given_second = read_results(second, truth, probabilities[1])
    accounts = (
        take_account(truth, found_first, p_abnormal=given_first, criterion=criterion, resamples=0),
        take_account(truth, found_second, p_abnormal=given_second, criterion=criterion, resamples=0),
    )
    comparison = compare_matched(
        accounts[0].matched,
        accounts[1].matched,
        names or _names(first.resolve(), second.resolve()),
        resamples=resamples,
        seed=seed,
    )
    if out:
        from cxr_mmdet.evaluation.report import Background, write_comparison_report
        from cxr_mmdet.files import write_json

        write_comparison_report(
            out / REPORT_FILE,
            comparison,
            accounts,
            truth,
            (found_first, found_second),
            background=Background(ground_truth.name, (first.name, second.name), find_configs(first, second)),
            image_dir=images or find_images(ground_truth, truth),
            title=title,
        )
        write_json(out / COMPARISON_FILE, comparison.to_json(), indent=2)
    stdout.print(comparison_table(comparison))
    stdout.print(class_comparison_table(comparison))
    if out:
        for name in (COMPARISON_FILE, REPORT_FILE):
            stderr.print(f"wrote {out / name}", highlight=False)


def _names(first: Path, second: Path) -> tuple[str, str]:
    """Return what tells the files apart: their stems, else their folders, else A and B."""
    for names in ((first.stem, second.stem), (first.parent.name, second.parent.name)):
        if names[0] != names[1]:
            return names
    return "A", "B"
