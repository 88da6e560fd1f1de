"""``prepare_data annotations|split|report|check``: the steps of a build that need no radiograph."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cxr_mmdet.cli.app import CxrTyper, ReplaceOption, print_notes, refuse_to_overwrite, stderr, stdout
from cxr_mmdet.errors import counted
from cxr_mmdet.structures.enums import ReaderFusion, SplitMethod

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cxr_mmdet.preparation.label_sets import LabelSetCounts

app = CxrTyper()


LabelsOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="14|5|auto|FILE",
        help="Label set: the competition's 14 classes, the reference's 5, auto for the classes of the table, or "
        "a file with one label per line: a class, or 'Opacity: [Lung Opacity, nih:Infiltrate]' to merge classes, of "
        "any set or of one; findings_14 maps public sets to the 14. Classes that no line names are dropped. Repeat the "
        "option to write several label sets of the same images.",
        show_default="14",
    ),
]
FusionOption = Annotated[
    ReaderFusion,
    typer.Option(
        help="Method that fuses the boxes of several readers; vote: WBF, then --min-votes; readers: corners and scores "
        "by what the table teaches about each reader."
    ),
]
ReaderModelOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        exists=True,
        dir_okay=False,
        help="With --fusion readers, use the parameters of this readers_<labels>.json of another prepared folder.",
    ),
]
FusionIouOption = Annotated[float, typer.Option(min=0, max=1, help="IoU above which two boxes are the same finding.")]
MinVotesOption = Annotated[int, typer.Option(min=1, help="Readers that must have marked a box, with --fusion vote.")]
SplitOption = Annotated[
    SplitMethod,
    typer.Option(
        help="auto: given (the source's own) where it ships one, else random; stratified by class; list "
        "(--val-list); or readers: by who read an image (--train-readers)."
    ),
]
ValRatioOption = Annotated[float, typer.Option(help="Share of images used for validation.")]
SeedOption = Annotated[int, typer.Option(help="Seed of the split.")]
FoldsOption = Annotated[
    int | None, typer.Option(metavar="K", help="Split into K folds, written to annotations/fold<k>/.")
]
FoldOption = Annotated[int, typer.Option(min=1, help="Fold that train_<labels>.json and val_<labels>.json hold.")]
ValListOption = Annotated[
    Path | None,
    typer.Option(metavar="FILE", exists=True, dir_okay=False, help="File of validation image ids, one per line."),
]
TrainReadersOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="READER",
        help="Readers of the training images; images that none of them read are for validation. Repeatable.",
    ),
]
GroupByOption = Annotated[
    str,
    typer.Option(
        metavar="patient|image|COLUMN",
        help="Unit that stays on one side of the split: patient (DICOM PatientID), image, or a column of the table.",
    ),
]
JoinDuplicatesOption = Annotated[
    bool, typer.Option("--join-duplicates", help="Keep near-duplicates on one side of the split.")
]
AllowDuplicatesOption = Annotated[
    bool, typer.Option("--allow-duplicates", help="Allow near-duplicates on both sides of the split.")
]
FormatOption = Annotated[
    str | None,
    typer.Option(
        "--format",
        metavar="NAME",
        help="Format of the annotations, such as vinbigdata or coco; told by their content by default.",
    ),
]
FolderArgument = Annotated[Path, typer.Argument(metavar="DIR", exists=True, file_okay=False, help="Prepared folder.")]


@app.command("annotations", no_args_is_help=True)
def read_annotations(
    table: Annotated[
        Path,
        typer.Argument(
            metavar="TABLE",
            exists=True,
            help="Annotations in any format that build reads, or a folder that holds them.",
        ),
    ],
    format_name: FormatOption = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", dir_okay=False, help="CSV file to write the fused boxes to."),
    ] = None,
    labels: LabelsOption = None,
    fusion: FusionOption = ReaderFusion.WBF,
    fusion_iou: FusionIouOption = 0.4,
    min_votes: MinVotesOption = 2,
    ceiling: Annotated[
        bool, typer.Option("--ceiling", help="Also score each reader against the others; takes longer.")
    ] = False,
    reliability: Annotated[
        bool, typer.Option("--reliability", help="Also print the sensitivity of the readers with most boxes.")
    ] = False,
    force: ReplaceOption = False,
) -> None:
    """Check a readers' table, fuse its boxes and print the inter-reader agreement; needs no radiographs."""
    from cxr_mmdet.preparation.table_report import TableOptions, report_table, table_lines, write_fused

    if out:
        is_among = table.is_dir() and out.resolve().is_relative_to(table.resolve())  # any file there may be the table
        refuse_to_overwrite(force, out, inputs=(out if is_among else table,))
    options = TableOptions(
        fusion=fusion.value,
        fusion_iou=fusion_iou,
        min_votes=min_votes,
        labels=tuple(labels or ["14"]),
        ceiling=ceiling,
        reliability=reliability,
    )
    report = report_table(table, options, format_name)
    for line in table_lines(report):
        stdout.print(line, highlight=False)
    print_notes(report.notes)
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
        typer.Option(
            metavar="patient|image|COLUMN", help="Unit that stays on one side of the split.", show_default="as built"
        ),
    ] = None,
    join_duplicates: JoinDuplicatesOption = False,
    allow_duplicates: AllowDuplicatesOption = False,
) -> None:
    """Split a prepared folder again; images and boxes stay, COCO files, manifest.json and report.html change."""
    from cxr_mmdet.preparation.options import BY_PATIENT, SplitOptions
    from cxr_mmdet.preparation.prepared import read_manifest
    from cxr_mmdet.preparation.resplit import resplit

    options = SplitOptions(
        split=split,
        val_ratio=val_ratio,
        seed=seed,
        folds=folds,
        fold=fold,
        val_list=val_list,
        train_readers=tuple(train_readers or ()),
        group_by=group_by or read_manifest(folder)["parameters"].get("group_by", BY_PATIENT),
        join_duplicates=join_duplicates,
        allow_duplicates=allow_duplicates,
    )
    annotated = resplit(folder, options)
    print_counts(annotated.counts)
    print_notes(annotated.notes)


@app.command(no_args_is_help=True)
def next_reads(
    folder: FolderArgument,
    n: Annotated[int, typer.Option("--n", min=1, help="Number of radiographs.")] = 50,
    labels: Annotated[
        str | None, typer.Option(metavar="NAME", help="Label set of the folder.", show_default="its first one")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", dir_okay=False, help="Also write them to this CSV table.")
    ] = None,
    force: ReplaceOption = False,
) -> None:
    """Rank radiographs by how much one more reading is expected to change their consensus."""
    from cxr_mmdet.annotations.table import write_frame
    from cxr_mmdet.preparation.reading_list import reading_list, reading_list_table

    if out:
        refuse_to_overwrite(force, out, inputs=(*folder.glob("*.json"), *folder.glob("annotations/*")))
    chosen = reading_list(folder, n, label_set=labels)
    stdout.print(reading_list_table(chosen))
    if out:
        write_frame(out, chosen)
        stderr.print(f"wrote {out}", highlight=False)


@app.command(no_args_is_help=True)
def report(folder: FolderArgument) -> None:
    """Write report.html of a prepared folder again."""
    from cxr_mmdet.preparation.report import write_report

    stdout.print(write_report(folder), highlight=False)


@app.command(no_args_is_help=True)
def check(folder: FolderArgument) -> None:
    """List everything that is wrong with a prepared folder; the exit code is 1 if anything is."""
    from cxr_mmdet.preparation.check import check_folder

    problems = check_folder(folder)
    for problem in problems:
        stdout.print(problem, markup=False, highlight=False)
    if problems:
        stderr.print(f"{counted(len(problems), 'problem')} in {folder}", style="bold red", highlight=False)
        raise typer.Exit(1)
    stderr.print(f"{folder} has no problems", highlight=False)


def print_counts(label_sets: Sequence[LabelSetCounts]) -> None:
    """Print the images and boxes of each class on both sides, and with the virtual copies where there are any."""
    from cxr_mmdet.preparation.label_sets import AUGMENTED, counts_table

    for counts in label_sets:
        columns = {"train": counts.train}
        if counts.label_set.minority:
            columns[AUGMENTED] = counts.train_augmented
        stdout.print(counts_table(f"labels {counts.label_set.name}", columns | {"val": counts.val}))
