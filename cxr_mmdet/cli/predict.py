"""``predict MODEL INPUT…``: predict radiographs and write their findings."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cxr_mmdet.cli.app import (
    ClassThresholdOption,
    CxrCommand,
    CxrTyper,
    DeviceOption,
    DicomwebCa,
    DicomwebCredentials,
    ModelShortEdgeOption,
    TrustOption,
    print_failures,
    progress_bar,
    quiet_imports,
    stderr,
    stdout,
)
from cxr_mmdet.errors import UsageError, counted
from cxr_mmdet.structures.enums import DEFAULT_SCORE_THRESHOLD, DEFAULT_STREAMS, DetectionFusion

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cxr_mmdet.batch.run import Process, RunSummary
    from cxr_mmdet.inference.fusion import Ensemble
    from cxr_mmdet.inference.predictor import Augmentation, Predictor
    from cxr_mmdet.pacs.dicomweb import Archive

app = CxrTyper(help=__doc__)

_ENSEMBLE = "--ensemble"


class PredictCommand(CxrCommand):
    """Command whose ``--ensemble`` takes every value up to the next option."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse ``args``."""
        return super().parse_args(ctx, repeat_option(args, _ENSEMBLE))


FusionOption = Annotated[
    DetectionFusion,
    typer.Option(help="Fusion of models and of augmented views: weighted boxes fusion (wbf) or summed scores."),
]
FusionIouOption = Annotated[
    float, typer.Option(min=0, max=1, help="IoU above which boxes of several models or views are the same finding.")
]
WeightsOption = Annotated[
    list[float] | None,
    typer.Option("--weight", help="Weight of a model in the ensemble; repeat once per model, in their order."),
]


@app.command(cls=PredictCommand, no_args_is_help=True)
def predict(
    out: Annotated[Path, typer.Option(metavar="DIR", file_okay=False, help="Output folder.")],
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="MODEL INPUT…",
            help="A checkpoint, a run's folder or an exported bundle; then radiographs: files, folders, patterns, zip "
            "archives; DICOM and other image files may be mixed. With --ensemble, all arguments are radiographs.",
        ),
    ] = None,
    ensemble: Annotated[
        list[str] | None, typer.Option(_ENSEMBLE, metavar="MODEL…", help="Fuse the findings of these models.")
    ] = None,
    score_threshold: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Omit findings below this score.", show_default="the model's own"),
    ] = None,
    class_threshold: ClassThresholdOption = None,
    nms_iou: Annotated[
        float | None,
        typer.Option(
            "--nms-iou",
            min=0,
            max=1,
            help="IoU above which NMS removes the lower-scoring of two findings of one class.",
            show_default="the model's own",
        ),
    ] = None,
    tta_scale: Annotated[
        list[float] | None,
        typer.Option(
            min=0.1, max=4, help="Test-time augmentation: also predict at this multiple of the usual size. Repeatable."
        ),
    ] = None,
    tta_flip: Annotated[
        bool,
        typer.Option(
            "--tta-flip",
            help="Test-time augmentation: also predict the mirrored radiograph; left and right classes are exchanged.",
        ),
    ] = False,
    fusion: FusionOption = DetectionFusion.WBF,
    fusion_iou: FusionIouOption = 0.5,
    weight: WeightsOption = None,
    overlays: Annotated[
        bool, typer.Option("--overlays", help="Write the radiographs with their findings drawn to overlays/*.png.")
    ] = False,
    overlay_score: Annotated[
        float, typer.Option(min=0, max=1, help="Lowest score of findings that overlays show.")
    ] = DEFAULT_SCORE_THRESHOLD,
    overlay_size: Annotated[int, typer.Option(min=0, help="Longer side of overlays in pixels; 0: full size.")] = 1024,
    coco: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            help="COCO annotation file: predict its images and write detections.json with its ids and in pixels of "
            "its images, for tools/evaluate.py.",
        ),
    ] = None,
    dicomweb: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="DICOMweb service of an archive: predict the radiographs of --study, which are kept in radiographs/ "
            "of the output folder.",
        ),
    ] = None,
    study: Annotated[str | None, typer.Option(metavar="UID", help="Study Instance UID, with --dicomweb.")] = None,
    series: Annotated[
        str | None,
        typer.Option(metavar="UID", help="Series Instance UID, with --dicomweb.", show_default="all of the study"),
    ] = None,
    store: Annotated[
        bool,
        typer.Option(
            "--store", help="Also write structured reports to reports/ and store them in the archive by STOW-RS."
        ),
    ] = False,
    credentials: DicomwebCredentials = None,
    dicomweb_ca: DicomwebCa = None,
    short_edge: ModelShortEdgeOption = None,
    device: DeviceOption = "cpu",
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads.", show_default="all cores, divided among processes")
    ] = None,
    streams: Annotated[
        int, typer.Option(min=1, help="Radiographs predicted at once, sharing the threads; each takes its memory.")
    ] = DEFAULT_STREAMS,
    batch_size: Annotated[int, typer.Option(min=1, help="Radiographs per batch.")] = 1,
    exact: Annotated[
        bool,
        typer.Option(
            "--exact",
            help="Read every pixel. By default DICOM images of at least twice the size that the model needs are read "
            "at half, a quarter … of their size, which changes scores by 0.0015 on average.",
        ),
    ] = False,
    trust_checkpoint: TrustOption = False,
    force: Annotated[
        bool, typer.Option("--force", help="Replace results of another model or of other settings.")
    ] = False,
) -> None:
    """Predict radiographs; write findings.json, detections.json (COCO), findings.csv and, on request, overlays.

    A file that cannot be read is reported, the other files are predicted, and the exit code is 1. Running the same
    command again predicts what is missing. Boxes are in pixels of the radiograph, except in detections.json with
    --coco. To use several processes: torchrun --nproc_per_node=N tools/predict.py …
    """
    from cxr_mmdet.batch.run import Process, RunOptions, predict_many
    from cxr_mmdet.inference.predictor import Thresholds
    from cxr_mmdet.structures.radiograph_files import find_radiographs
    from cxr_mmdet.structures.scores import parse_class_thresholds

    arguments = arguments or []
    models, inputs = (ensemble, arguments) if ensemble else (arguments[:1], arguments[1:])
    process = Process.from_environment()
    archive = _archive(dicomweb, credentials, dicomweb_ca) if dicomweb else None
    if archive is not None:
        if study is None or inputs or not models or process.count > 1:
            raise UsageError("--dicomweb takes a model, no files, the --study to predict, and one process.")
        inputs = list(map(str, archive.download(study, series, out / "radiographs")))
    elif study or series or store or credentials or dicomweb_ca:
        raise UsageError("--study, --series, --store, --credentials and --dicomweb-ca need --dicomweb URL.")
    if not inputs:
        raise UsageError("no radiograph is given; name files, folders, patterns or zip archives after the model.")
    items = find_radiographs(inputs)
    predictor = _load(
        models,
        fusion=fusion,
        fusion_iou=fusion_iou,
        weights=weight,
        device=device,
        threads=threads or _threads(process),
        trust_checkpoint=trust_checkpoint,
        short_edge=short_edge,
        streams=streams,
        exact=exact,
    )
    options = RunOptions(
        thresholds=Thresholds(score_threshold, nms_iou, parse_class_thresholds(class_threshold or [])),
        augmentation=_augmentation(tta_scale or [], tta_flip, fusion, fusion_iou),
        batch_size=batch_size,
        overlays=overlays,
        overlay_score=overlay_score,
        overlay_size=overlay_size,
        coco=coco,
        force=force,
    )
    with progress_bar("predicting") as progress:
        summary = predict_many(predictor, items, out, options, process=process, progress=progress)
    if summary is not None:
        _print(summary)
        if archive is not None and store:
            reports = _write_reports(out, DEFAULT_SCORE_THRESHOLD if score_threshold is None else score_threshold)
            if reports:
                archive.store(reports)
            stderr.print(f"{counted(len(reports), 'report')} stored in {archive}", highlight=False, markup=False)
        if summary.failures:
            raise typer.Exit(1)


def repeat_option(args: list[str], option: str) -> list[str]:
    """Return ``args`` with ``option`` before each of the values that follow it, up to the next option."""
    repeated: list[str] = []
    taking = False
    for arg in args:
        if arg == option:
            taking = True
        elif arg.startswith("-"):
            taking = False
            repeated.append(arg)
        else:
            repeated += [option, arg] if taking else [arg]
    return repeated


def _archive(url: str, credentials: str | None, ca: Path | None) -> Archive:
    try:
        from cxr_mmdet.pacs.dicomweb import Archive
    except ModuleNotFoundError:
        raise UsageError("--dicomweb needs dicomweb-client; install it with: pip install 'cxr-mmdet[pacs]'") from None
    from cxr_mmdet.pacs.reporting import quiet_libraries

    quiet_libraries()
    return Archive(url, credentials=credentials, ca=ca)


def _write_reports(out: Path, min_score: float) -> list[Path]:
    """Write the findings of findings.json that reach ``min_score`` as structured reports, and return their files."""
    import json

    from cxr_mmdet.batch.outputs import FINDINGS_JSON
    from cxr_mmdet.dicom.report import read_header, structured_report, to_bytes
    from cxr_mmdet.files import write_durably
    from cxr_mmdet.structures.detections import Findings

    document = json.loads((out / FINDINGS_JSON).read_text(encoding="utf-8"))
    paths = []
    (out / "reports").mkdir(exist_ok=True)
    for image in document["images"]:
        found = Findings.from_json(image, document["labels"]).filter(min_score)
        paths.append(out / "reports" / f"{image['image_id']}.sr.dcm")
        write_durably(paths[-1], to_bytes(structured_report(found, read_header(Path(image["source"])))))
    return paths


def _load(
    models: Sequence[str], *, fusion: DetectionFusion, fusion_iou: float, weights: list[float] | None, **options: Any
) -> Predictor | Ensemble:
    from cxr_mmdet.inference.predictor import Predictor

    with quiet_imports():
        members = [Predictor.load(model, **options) for model in models]
    if len(members) == 1:
        return members[0]
    from cxr_mmdet.inference.fusion import Ensemble

    return Ensemble(members, method=fusion, iou_threshold=fusion_iou, weights=weights)


def _augmentation(
    scales: Sequence[float], flip: bool, fusion: DetectionFusion, fusion_iou: float
) -> Augmentation | None:
    from cxr_mmdet.inference.predictor import Augmentation, make_views

    views = make_views(tuple(dict.fromkeys((1.0, *scales))), flip=flip)
    if len(views) == 1:
        return None
    return Augmentation(views, fusion, fusion_iou)


def _threads(process: Process) -> int | None:
    """Return the share of the cores of each of several processes; a single one leaves it to the runtime."""
    if process.count == 1:
        return None
    import os

    return max(1, (os.cpu_count() or 1) // process.count)


def _print(summary: RunSummary) -> None:
    from cxr_mmdet.batch.outputs import FAILURES_CSV

    print_failures(list(summary.failures.values()), summary.out_dir / FAILURES_CSV)
    earlier = f", {summary.reused} of them by an earlier run" if summary.reused else ""
    found = f"{counted(summary.findings, 'finding')} in {counted(summary.images, 'radiograph')}"
    stderr.print(f"{found}{earlier}", highlight=False)
    stdout.print(summary.out_dir, highlight=False)
