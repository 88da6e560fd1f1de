"""``prepare_data annotations|split|report|check``: the parts of a build that need no radiograph, alone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cxr_mmdet.cli.app import CxrTyper, stderr, stdout
from cxr_mmdet.errors import UsageError
from cxr_mmdet.structures.enums import ReaderFusion, SplitMethod

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cxr_mmdet.preparation.label_sets import LabelSetCounts
    from cxr_mmdet.preparation.options import SplitOptions

app = CxrTyper()


LabelsOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="14|5|auto|FILE",
        help="Classes: the competition's 14, the reference's 5, auto for the table's own by class id, or a file with a "
        "label a line: a class, or 'Opacity: [Lung Opacity, Infiltration]' to merge some; other classes are dropped. "
        "Repeat it to write several label sets of the same pictures.",
        show_default="14",
    ),
]
FusionOption = Annotated[
    ReaderFusion, typer.Option(help="How several readers' boxes become one set; vote: WBF, then --min-votes.")
]
FusionIouOption = Annotated[float, typer.Option(min=0, max=1, help="Overlap above which two boxes are one finding.")]
MinVotesOption = Annotated[int, typer.Option(min=1, help="Readers that a box needs with --fusion vote.")]
SplitOption = Annotated[
    SplitMethod,
    typer.Option(
        help="By chance; by chance with every class spread alike; --val-list; or by who read an image, --train-readers."
    ),
]
ValRatioOption = Annotated[float, typer.Option(help="Share of the images to validate on.")]
SeedOption = Annotated[int, typer.Option(help="Seed of the split.")]
FoldsOption = Annotated[
    int | None, typer.Option(metavar="K", help="Divide in K folds; each one's files are in annotations/fold<k>/.")
]
FoldOption = Annotated[int, typer.Option(min=1, help="The fold that train_<labels>.json and val_<labels>.json are of.")]
ValListOption = Annotated[
    Path | None,
    typer.Option(metavar="FILE", exists=True, dir_okay=False, help="Image ids to validate on, one a line."),
]
TrainReadersOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="READER", help="Validate on images that none of these readers read, as the test set is. Repeatable."
    ),
]
GroupByOption = Annotated[
    str,
    typer.Option(
        metavar="patient|image|COLUMN",
        help="What stays on one side of the split: a patient's images (DICOM PatientID), each image, or what a column "
        "of the table names.",
    ),
]
JoinDuplicatesOption = Annotated[
    bool, typer.Option("--join-duplicates", help="Keep near-identical pictures on one side of the split.")
]
AllowDuplicatesOption = Annotated[
    bool, typer.Option("--allow-duplicates", help="Let near-identical pictures stand on both sides of the split.")
]
FolderArgument = Annotated[
    Path, typer.Argument(metavar="DIR", exists=True, file_okay=False, help="A folder that build wrote.")
]


@app.command("annotations", no_args_is_help=True)
def read_annotations(
    table: Annotated[
        Path,
        typer.Argument(
            metavar="TABLE",
            exists=True,
            help="Readers' boxes: a CSV table, COCO (.json), or the folder that holds one.",
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", dir_okay=False, help="Write the fused boxes here, a CSV table."),
    ] = None,
    labels: LabelsOption = None,
    fusion: FusionOption = ReaderFusion.WBF,
    fusion_iou: FusionIouOption = 0.4,
    min_votes: MinVotesOption = 2,
    ceiling: Annotated[
        bool, typer.Option("--ceiling", help="Score each reader against the others as well; takes longer.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace an earlier file.")] = False,
) -> None:
    """Check a readers' table, fuse the readers and print how far they agree; needs no radiograph."""
    from cxr_mmdet.preparation.table_report import TableOptions, report_table, table_lines, write_fused

    if out and out.exists() and not force:
        raise UsageError(f"{out} exists; pass --force to replace it, or choose another place with --out.")
    options = TableOptions(
        fusion=fusion.value, fusion_iou=fusion_iou, min_votes=min_votes, labels=tuple(labels or ["14"]), ceiling=ceiling
    )
    report = report_table(table, options)
    for line in table_lines(report):
        stdout.print(line, highlight=False)
    for note in report.notes:
        stderr.print(f"note: {note}", markup=False, highlight=False)
    if out:
        write_fused(out, report.label_sets)
        stderr.print(f"wrote {out}", highlight=False)


@app.command(no_args_is_help=True)
def split(
    folder: FolderArgument,
    split: SplitOption = SplitMethod.RANDOM,
    val_ratio: ValRatioOption = 0.2,
    seed: SeedOption = 42,
    folds: FoldsOption = None,
    fold: FoldOption = 1,
    val_list: ValListOption = None,
    train_readers: TrainReadersOption = None,
    group_by: Annotated[
        str | None,
        typer.Option(metavar="patient|image|COLUMN", help="What stays on one side.", show_default="as it was built"),
    ] = None,
    join_duplicates: JoinDuplicatesOption = False,
    allow_duplicates: AllowDuplicatesOption = False,
) -> None:
    """Divide a prepared folder anew: its pictures and boxes stay, COCO files, manifest.json and report.html change."""
    from cxr_mmdet.preparation.options import BY_PATIENT
    from cxr_mmdet.preparation.prepared import read_manifest
    from cxr_mmdet.preparation.resplit import resplit

    group_by = group_by or read_manifest(folder)["parameters"].get("group_by", BY_PATIENT)
    options = split_options(
        split, val_ratio, seed, folds, fold, val_list, train_readers, group_by, join_duplicates, allow_duplicates
    )
    annotated = resplit(folder, options)
    print_counts(annotated.counts)
    for note in annotated.notes:
        stderr.print(f"note: {note}", markup=False, highlight=False)


@app.command(no_args_is_help=True)
def report(folder: FolderArgument) -> None:
    """Write report.html of a prepared folder again: one page to look through the data."""
    from cxr_mmdet.preparation.report import write_report

    stdout.print(write_report(folder), highlight=False)


@app.command(no_args_is_help=True)
def check(folder: FolderArgument) -> None:
    """Say everything that is wrong with a prepared folder; exit code 1 if anything is."""
    from cxr_mmdet.preparation.check import check_folder

    problems = check_folder(folder)
    for problem in problems:
        stdout.print(problem, markup=False, highlight=False)
    if problems:
        stderr.print(f"{len(problems)} problems in {folder}", style="bold red", highlight=False)
        raise typer.Exit(1)
    stderr.print(f"nothing is wrong with {folder}", highlight=False)


def split_options(
    split: SplitMethod,
    val_ratio: float,
    seed: int,
    folds: int | None,
    fold: int,
    val_list: Path | None,
    train_readers: Sequence[str] | None,
    group_by: str,
    join_duplicates: bool,
    allow_duplicates: bool,
) -> SplitOptions:
    """Return the options of a split, in the order of the commands' arguments."""
    from cxr_mmdet.preparation.options import SplitOptions

    return SplitOptions(
        split=split,
        val_ratio=val_ratio,
        seed=seed,
        folds=folds,
        fold=fold,
        val_list=val_list,
        train_readers=tuple(train_readers or ()),
        group_by=group_by,
        join_duplicates=join_duplicates,
        allow_duplicates=allow_duplicates,
    )


def print_counts(label_sets: Sequence[LabelSetCounts]) -> None:
    """Print the images and boxes of each class on both sides, and with the virtual copies where there are any."""
    from cxr_mmdet.preparation.label_sets import counts_table

    for counts in label_sets:
        columns = {"train": counts.train}
        if counts.label_set.minority:
            columns["augmented"] = counts.train_augmented
        stdout.print(counts_table(f"labels {counts.label_set.name}", columns | {"val": counts.val}))
