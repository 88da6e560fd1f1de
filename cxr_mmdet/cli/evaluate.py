"""``evaluate``: score detections against ground truth, both as COCO files, without a model or a GPU."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cxr_mmdet.cli.app import CxrGroup, CxrTyper, ReplaceOption, print_notes, refuse_to_overwrite, stderr, stdout
from cxr_mmdet.errors import DatasetError, UsageError, counted
from cxr_mmdet.structures.enums import DEFAULT_SCORE_THRESHOLD, Against, HitCriterion, SubmissionFormat

if TYPE_CHECKING:
    from cxr_mmdet.annotations.against_readers import AgainstReaders
    from cxr_mmdet.evaluation.evaluate import EvaluationResult
    from cxr_mmdet.evaluation.inputs import EvaluationInputs

METRICS_FILE, COMPARISON_FILE, REPORT_FILE = "metrics.json", "comparison.json", "report.html"
AGAINST_READERS_FILE = "against_readers.json"

_DETECTIONS_HELP = "COCO results of any detector, or a submission.csv."
GroundTruth = Annotated[Path, typer.Argument(metavar="GT", exists=True, dir_okay=False, help="COCO annotation file.")]
Detections = Annotated[Path, typer.Argument(metavar="DETECTIONS", exists=True, dir_okay=False, help=_DETECTIONS_HELP)]
FirstDetections = Annotated[Path, typer.Argument(metavar="A", exists=True, dir_okay=False, help=_DETECTIONS_HELP)]
SecondDetections = Annotated[Path, typer.Argument(metavar="B", exists=True, dir_okay=False, help=_DETECTIONS_HELP)]
PAbnormal = Annotated[
    Path | None,
    typer.Option(
        "--p-abnormal",
        metavar="FILE",
        exists=True,
        dir_okay=False,
        help="CSV or JSON file with the probability that each image is abnormal.",
        show_default="the file that a gate left beside DETECTIONS, else each image's highest score",
    ),
]
Criterion = Annotated[HitCriterion, typer.Option(help="Rule for hits on the FROC curve: IoU, or centre in the box.")]
Resamples = Annotated[int, typer.Option(min=0, help="Bootstrap resamples behind the intervals; 0 omits the intervals.")]
Seed = Annotated[int, typer.Option(min=0, help="Seed of the resamples.")]
Images = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        exists=True,
        file_okay=False,
        help="Folder of the images that the report shows.",
        show_default="images/ of the prepared folder, if it exists",
    ),
]
Title = Annotated[str, typer.Option(help="Heading of the page.")]


class RunByDefault(CxrGroup):
    """A group that takes ``GT DETECTIONS`` without a verb for ``run GT DETECTIONS``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse ``args``; a first one that is a file and no verb is the ground truth of ``run``."""
        if args and args[0] not in self.commands and Path(args[0]).is_file():
            args = ["run", *args]
        return super().parse_args(ctx, args)


app = CxrTyper(no_args_is_help=True, cls=RunByDefault)


@app.callback()
def evaluate() -> None:
    """Score detections against ground truth, both in COCO format."""


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
    iou: Annotated[
        float,
        typer.Option(
            "--iou",
            min=0,
            max=1,
            help="IoU that a hit exceeds: precision, recall, F1, FROC, confusion, calibration and images. COCO's mAP "
            "and the competition's mAP@.4 keep their own.",
        ),
    ] = 0.4,
    score_threshold: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="Operating threshold of precision, recall, F1, the confusion matrix and the images.",
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
            show_default="the one of the prepared folder",
        ),
    ] = None,
    against: Annotated[
        Against | None,
        typer.Option(
            help="readers: also score the detector against each reader of the prepared folder, and rank it among them."
        ),
    ] = None,
    title: Title = "Detector report",
    force: ReplaceOption = False,
) -> None:
    """Print the scores of a detector with their uncertainty; write metrics and a report."""
    from cxr_mmdet.evaluation.evaluate import evaluate
    from cxr_mmdet.evaluation.terminal import result_tables
    from cxr_mmdet.files import write_json
    from cxr_mmdet.preparation.table_report import against_readers_tables

    if out:
        targets = (out / METRICS_FILE, out / REPORT_FILE, out / AGAINST_READERS_FILE)
        refuse_to_overwrite(force, *targets, inputs=(ground_truth, detections, p_abnormal, manifest))
    result = evaluate(
        ground_truth,
        detections,
        p_abnormal=p_abnormal,
        criterion=criterion,
        iou_threshold=iou,
        score_threshold=score_threshold,
        resamples=resamples,
        seed=seed,
        manifest=manifest,
    )
    _print_notes(result.inputs)
    _require_boxes(result.inputs)
    ranked = _rank_among_readers(result, ground_truth, resamples, seed) if against else None
    if out:
        of_readers = ranked.to_json() if ranked else None
        result.write(out, images=images, title=title, against_readers=of_readers)
        if of_readers:
            write_json(out / AGAINST_READERS_FILE, of_readers, indent=2)
    for part in result_tables(result):
        stdout.print(part)
    if ranked:
        for table in against_readers_tables(ranked):
            stdout.print(table)
    if out:
        _print_written(out / METRICS_FILE, out / REPORT_FILE, *([out / AGAINST_READERS_FILE] if ranked else []))


@app.command(no_args_is_help=True)
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
        typer.Option(metavar="A B", help="Names of the detectors.", show_default="their files or folders"),
    ] = None,
    images: Images = None,
    p_abnormal: Annotated[
        tuple[Path, Path] | None,
        typer.Option(
            metavar="FILE FILE",
            exists=True,
            dir_okay=False,
            help="For each detector, a CSV or JSON file with the probability that each image is abnormal.",
        ),
    ] = None,
    criterion: Criterion = HitCriterion.IOU,
    resamples: Resamples = 1000,
    seed: Seed = 0,
    title: Title = "Two detectors",
    force: ReplaceOption = False,
) -> None:
    """Print the differences between detectors B and A, each with its interval and p-value."""
    from cxr_mmdet.evaluation.comparison import compare
    from cxr_mmdet.evaluation.evaluate import evaluate_inputs
    from cxr_mmdet.evaluation.inputs import read_inputs
    from cxr_mmdet.evaluation.terminal import class_comparison_table, comparison_table

    probabilities = p_abnormal or (None, None)
    if out:
        read = (ground_truth, first, second, *probabilities)
        refuse_to_overwrite(force, out / COMPARISON_FILE, out / REPORT_FILE, inputs=read)
    inputs = [
        read_inputs(ground_truth, path, given) for path, given in zip((first, second), probabilities, strict=True)
    ]
    _print_notes(*inputs)
    _require_boxes(inputs[0])
    results: list[EvaluationResult] = [evaluate_inputs(each, criterion=criterion, resamples=0) for each in inputs]
    comparison = compare(
        results[0].matched,
        results[1].matched,
        names or _names(first.resolve(), second.resolve()),
        resamples=resamples,
        seed=seed,
    )
    if out:
        from cxr_mmdet.evaluation.report import write_comparison_report
        from cxr_mmdet.files import write_json

        write_comparison_report(
            out / REPORT_FILE,
            comparison,
            (results[0], results[1]),
            image_dir=images or inputs[0].find_images(),
            title=title,
        )
        write_json(out / COMPARISON_FILE, comparison.to_json(), indent=2)
    stdout.print(comparison_table(comparison))
    stdout.print(class_comparison_table(comparison))
    if out:
        _print_written(out / COMPARISON_FILE, out / REPORT_FILE)


@app.command(no_args_is_help=True)
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
    force: ReplaceOption = False,
) -> None:
    """Print each class's score threshold for a sensitivity or for a number of false positives per image."""
    from cxr_mmdet.evaluation.froc import threshold_for_false_positives, threshold_for_sensitivity
    from cxr_mmdet.evaluation.inputs import read_inputs
    from cxr_mmdet.evaluation.matching import match_detections
    from cxr_mmdet.evaluation.terminal import thresholds_table
    from cxr_mmdet.files import write_json

    if (sensitivity is None) == (fp_rate is None):
        raise UsageError("pass one of --sensitivity and --fp-rate.")
    if out:
        refuse_to_overwrite(force, out, inputs=(ground_truth, detections))
    inputs = read_inputs(ground_truth, detections)
    _print_notes(inputs)
    _require_boxes(inputs)
    matches = match_detections(inputs.ground_truth, inputs.detections, criterion=criterion)
    if sensitivity is not None:
        goal = f"a sensitivity of at least {sensitivity:g}"
        cuts = [threshold_for_sensitivity(entry, sensitivity) for entry in matches]
    else:
        assert fp_rate is not None, "one of the two was given"
        goal = f"at most {fp_rate:g} false positives per image"
        cuts = [threshold_for_false_positives(entry, fp_rate) for entry in matches]
    if out:
        content = {"goal": goal, "criterion": criterion.value, "thresholds": [cut.to_json() for cut in cuts]}
        write_json(out, content, indent=2)
    stdout.print(thresholds_table(f"Thresholds for {goal}", cuts))
    if out:
        _print_written(out)


@app.command(no_args_is_help=True)
def submission(
    ground_truth: Annotated[
        Path,
        typer.Argument(
            metavar="PREDICTIONS|GT",
            exists=True,
            help="The output folder of predict, alone; or a COCO file that lists the images, and then DETECTIONS.",
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="FILE", dir_okay=False, help="CSV file to write.")],
    detections: Annotated[
        Path | None, typer.Argument(metavar="[DETECTIONS]", exists=True, dir_okay=False, help=_DETECTIONS_HELP)
    ] = None,
    competition: Annotated[
        SubmissionFormat, typer.Option("--format", help="Competition whose file to write.")
    ] = SubmissionFormat.VINBIGDATA,
    p_abnormal: PAbnormal = None,
    sample: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            exists=True,
            dir_okay=False,
            help="The competition's sample_submission.csv: submit its images, in its order.",
        ),
    ] = None,
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Submit images of --sample that were not predicted as normal.")
    ] = False,
    force: ReplaceOption = False,
) -> None:
    """Write a competition's submission.csv, in pixels of the source images."""
    from cxr_mmdet.evaluation.image_level import read_p_abnormal, score_images
    from cxr_mmdet.evaluation.inputs import read_inputs
    from cxr_mmdet.evaluation.matching import DetectionTable, TruthTable
    from cxr_mmdet.evaluation.submission import images_of_sample, read_findings, write_submission

    refuse_to_overwrite(force, out, inputs=(ground_truth, detections, p_abnormal, sample))
    if detections is None:
        truth, found, scores = read_findings(ground_truth)
        if p_abnormal is not None:
            scores = read_p_abnormal(p_abnormal, truth).tolist()
    else:
        inputs = read_inputs(ground_truth, detections, p_abnormal)
        _print_notes(inputs)
        truth, found = inputs.ground_truth, list(inputs.detections)
        by_image = score_images(TruthTable.of(truth), DetectionTable.of(truth, found), inputs.p_abnormal)
        scores = by_image.p_abnormal.tolist()
    if sample is not None:
        truth, scores, missing = images_of_sample(sample, truth, scores, allow_missing=allow_missing)
        if missing:
            count = counted(len(missing), "image")
            print_notes([f"{count} without predictions submitted as normal, such as {missing[0]}."])
    left_out = write_submission(out, truth, found, scores, competition)
    if left_out:
        which = f"{left_out:,} of {counted(len(found), 'detection')}"
        reason = "outside their image"
        if competition is not SubmissionFormat.VINBIGDATA:
            reason += " or of a class that the competition does not ask for"
        print_notes([f"left out, because {reason}: {which}."])
    if competition is SubmissionFormat.SIIM_COVID:
        print_notes(
            ["the lines of studies are not written, because a detector does not know their appearance; append yours."]
        )
    stdout.print(out, highlight=False)


@app.command(no_args_is_help=True)
def gallery(
    ground_truth: GroundTruth,
    detections: Detections,
    images: Annotated[
        Path, typer.Option(metavar="DIR", exists=True, file_okay=False, help="Folder of the prepared images.")
    ],
    out: Annotated[Path, typer.Option(metavar="FILE", dir_okay=False, help="HTML file to write.")],
    count: Annotated[int, typer.Option(min=1, help="Number of radiographs to show.")] = 12,
    score_threshold: Annotated[
        float, typer.Option(min=0, max=1, help="Score that a detection needs to be drawn.")
    ] = DEFAULT_SCORE_THRESHOLD,
    title: Title = "Chest X-ray detections",
    force: ReplaceOption = False,
) -> None:
    """Write a page that shows ground truth and detections side by side."""
    from cxr_mmdet.evaluation.coco import evaluate_coco
    from cxr_mmdet.evaluation.gallery import write_gallery
    from cxr_mmdet.evaluation.inputs import read_inputs

    refuse_to_overwrite(force, out, inputs=(ground_truth, detections))
    inputs = read_inputs(ground_truth, detections)
    _print_notes(inputs)
    write_gallery(
        out,
        inputs.ground_truth,
        inputs.detections,
        images,
        scores=evaluate_coco(inputs.ground_truth, inputs.detections),
        images=count,
        score_threshold=score_threshold,
        title=title,
    )
    stdout.print(out, highlight=False)


def _rank_among_readers(result: EvaluationResult, ground_truth: Path, resamples: int, seed: int) -> AgainstReaders:
    from cxr_mmdet.annotations.against_readers import rank_among_readers, readers_of

    truth = result.inputs.ground_truth
    return rank_among_readers(
        readers_of(ground_truth, truth), truth, result.matched.detections, resamples=resamples, seed=seed
    )


def _print_notes(*inputs: EvaluationInputs) -> None:
    print_notes(dict.fromkeys(note for each in inputs for note in each.notes))


def _require_boxes(inputs: EvaluationInputs) -> None:
    if all(entry.get("iscrowd") for entry in inputs.ground_truth["annotations"]):
        raise DatasetError(f"{inputs.ground_truth_path}: holds no boxes, so there is nothing to score against.")


def _print_written(*paths: Path) -> None:
    for path in paths:
        stderr.print(f"wrote {path}", highlight=False)


def _names(first: Path, second: Path) -> tuple[str, str]:
    """Return names that tell two files apart: their stems, else their folders, else A and B."""
    for names in ((first.stem, second.stem), (first.parent.name, second.parent.name)):
        if names[0] != names[1]:
            return names
    return "A", "B"
