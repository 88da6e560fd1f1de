"""``prepare_data``: turn radiographs and a readers' table into a prepared folder, or generate phantoms."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cxr_mmdet.cli import prepare_data_annotations, prepare_data_images
from cxr_mmdet.cli.app import CxrTyper, print_failures, print_notes, progress_bar, stderr, stdout
from cxr_mmdet.cli.prepare_data_annotations import (
    AllowDuplicatesOption,
    FoldOption,
    FoldsOption,
    FormatOption,
    FusionIouOption,
    FusionOption,
    GroupByOption,
    JoinDuplicatesOption,
    LabelsOption,
    MinVotesOption,
    ReaderModelOption,
    SeedOption,
    SplitOption,
    TrainReadersOption,
    ValListOption,
    ValRatioOption,
    print_counts,
)
from cxr_mmdet.cli.prepare_data_images import (
    ClipBoxesOption,
    DaskOption,
    JobsOption,
    MaxFailuresOption,
    ReducedOption,
    ShortEdgeOption,
    TableOption,
)
from cxr_mmdet.errors import UsageError, counted
from cxr_mmdet.structures.enums import PhantomReaders, ReaderFusion, SplitMethod

if TYPE_CHECKING:
    from cxr_mmdet.phantom import PhantomSummary
    from cxr_mmdet.preparation.build import BuildSummary

app = CxrTyper(no_args_is_help=True)


@app.callback()
def prepare_data() -> None:
    """Prepare radiographs for training, or generate synthetic ones."""


@app.command(no_args_is_help=True)
def build(
    src: Annotated[
        list[str],
        typer.Argument(
            metavar="SRC",
            help="Folder of radiographs and annotations, such as train/<image_id>.dicom (or .png …) and train.csv. "
            "Several sets: DIR or NAME=DIR each.",
        ),
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Output folder.")],
    table: TableOption = None,
    format_name: FormatOption = None,
    labels: LabelsOption = None,
    split: SplitOption = SplitMethod.AUTO,
    val_ratio: ValRatioOption = 0.2,
    seed: SeedOption = 42,
    folds: FoldsOption = None,
    fold: FoldOption = 1,
    val_list: ValListOption = None,
    train_readers: TrainReadersOption = None,
    group_by: GroupByOption = "patient",
    join_duplicates: JoinDuplicatesOption = False,
    allow_duplicates: AllowDuplicatesOption = False,
    short_edge: ShortEdgeOption = 1024,
    reduced_jpeg2000: ReducedOption = False,
    fusion: FusionOption = ReaderFusion.WBF,
    reader_model: ReaderModelOption = None,
    fusion_iou: FusionIouOption = 0.4,
    min_votes: MinVotesOption = 2,
    minority: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CLASS",
            help="Minority class, whose training images count three times. Repeatable.",
            show_default="ILD, Infiltration and Nodule/Mass for --labels 5",
        ),
    ] = None,
    drop_normals: Annotated[
        bool,
        typer.Option(
            "--drop-normals", help="Omit images with none of the classes, as the reference does for 5 classes."
        ),
    ] = False,
    clip_boxes: ClipBoxesOption = False,
    unread_as_normal: Annotated[
        bool,
        typer.Option("--unread-as-normal", help="Treat a radiograph without a row as normal instead of as a failure."),
    ] = False,
    pseudonym_key: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            exists=True,
            dir_okay=False,
            help="Secret of at least 16 random bytes, kept outside OUT: patients get the same pseudonyms in each build "
            "with it. Without it, patients are named after their first image.",
        ),
    ] = None,
    max_failures: MaxFailuresOption = 0,
    jobs: JobsOption = 1,
    dask: DaskOption = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace an earlier build; unchanged radiographs are not rendered again.")
    ] = False,
) -> None:
    """Render radiographs, fuse readers, split by patient; write COCO files, manifest.json and report.html.

    Radiographs that cannot be read, rows without a file and files without a row are omitted, listed in failures.csv,
    and make the exit code 1 unless --max-failures allows them. An interrupted build is completed by the same command.
    """
    from cxr_mmdet.parallel import worker_pool
    from cxr_mmdet.preparation.build import BuildOptions, build_dataset

    options = BuildOptions(
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
        labels=tuple(labels or ["14"]),
        short_edge=short_edge,
        reduced_jpeg2000=reduced_jpeg2000,
        fusion=fusion,
        reader_model=reader_model,
        fusion_iou=fusion_iou,
        min_votes=min_votes,
        minority=tuple(minority) if minority else None,
        drop_normals=drop_normals,
        clip_boxes=clip_boxes,
        unread_as_normal=unread_as_normal,
    )
    with worker_pool(jobs, dask) as workers, progress_bar("preparing radiographs") as progress:
        summary = build_dataset(
            [_named_folder(each) for each in src],
            out,
            options,
            table=table,
            format_name=format_name,
            jobs=workers,
            force=force,
            progress=progress,
            pseudonym_key=pseudonym_key,
        )
    _print_build(summary)
    if len(summary.failures) > max_failures:
        raise typer.Exit(1)


@app.command(no_args_is_help=True)
def phantom(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Output folder.")],
    images: Annotated[int, typer.Option(min=1, help="Number of radiographs.")],
    seed: Annotated[int, typer.Option(help="Seed; the same seed gives the same bytes.")] = 0,
    size: Annotated[int, typer.Option(min=1, help="Short edge of a radiograph in pixels.")] = 1024,
    abnormal_share: Annotated[float, typer.Option(min=0, max=1, help="Share of radiographs with findings.")] = 0.3,
    labels: Annotated[str, typer.Option(metavar="14|5|FILE", help="Findings to draw.")] = "14",
    readers: Annotated[int, typer.Option(min=1, help="Readers per radiograph.")] = 3,
    reader_kind: Annotated[
        PhantomReaders, typer.Option("--reader-kind", help="vinbigdata: readers who disagree as VinBigData's do.")
    ] = PhantomReaders.PLAIN,
    anatomy: Annotated[
        bool,
        typer.Option("--anatomy", help="Box lungs, heart, clavicles and other organs as well, as further classes."),
    ] = False,
    bedside_share: Annotated[
        float,
        typer.Option(min=0, max=1, help="Share of patients imaged at the bedside, whose opacities are pneumonias."),
    ] = 0.0,
    jobs: JobsOption = 1,
    force: Annotated[bool, typer.Option("--force", help="Replace an earlier phantom.")] = False,
) -> None:
    """Generate synthetic chest radiographs with known findings, laid out like VinBigData, and truth.csv."""
    from cxr_mmdet.phantom import write_phantoms
    from cxr_mmdet.structures.labels import LABELS_14, resolve_labels

    names = resolve_labels(labels, LABELS_14)
    if force:
        _remove_phantom(out)
    with progress_bar("drawing radiographs") as progress:
        summary = write_phantoms(
            out,
            images=images,
            seed=seed,
            size=size,
            abnormal_share=abnormal_share,
            readers=readers,
            reader_kind=reader_kind,
            anatomy=anatomy,
            bedside_share=bedside_share,
            jobs=jobs,
            labels=names,
            progress=progress,
        )
    _print_phantom(summary)


app.add_typer(prepare_data_annotations.app)
app.add_typer(prepare_data_images.app)


def _named_folder(text: str) -> tuple[str, Path]:
    """Return the name, if any, and the folder of ``NAME=DIR`` or ``DIR``."""
    name, separator, folder = text.partition("=")
    if not separator or Path(text).is_dir():
        name, folder = "", text
    if not Path(folder).is_dir():
        raise UsageError(f"{folder}: no such folder; expected radiographs and annotations.")
    return name, Path(folder)


def _remove_phantom(out: Path) -> None:
    from cxr_mmdet.phantom.writer import remove_phantoms

    if (out / "train").exists() and not (out / "truth.csv").is_file():
        raise UsageError(
            f"{out}: holds radiographs but no truth.csv, so they are not phantoms; --force does not remove them."
        )
    remove_phantoms(out)


def _print_phantom(summary: PhantomSummary) -> None:
    from rich.table import Table

    table = Table("class", title="phantom", title_justify="left")
    table.add_column("true\nboxes", justify="right")
    table.add_column("readers'\nboxes", justify="right")
    for label, count in summary.truth_boxes.items():
        table.add_row(label, str(count), str(summary.reader_boxes[label]))
    stdout.print(table)
    stderr.print(
        f"wrote {counted(summary.images, 'radiograph')} of {counted(summary.patients, 'patient')} to {summary.path}, "
        f"{summary.abnormal_images} of them with findings",
        highlight=False,
    )


def _print_build(summary: BuildSummary) -> None:
    from cxr_mmdet.preparation.folder import FAILURES_NAME

    print_counts(summary.label_sets)
    print_notes(summary.notes)
    print_failures([failure.reason for failure in summary.failures], summary.out / FAILURES_NAME)
    stderr.print(f"wrote {counted(summary.images, 'radiograph')} to {summary.out}", highlight=False)
