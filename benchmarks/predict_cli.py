"""``benchmark.py predict``: speed of prediction, and its quality beside it."""

from __future__ import annotations

import contextlib
import sys
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cxr_mmdet.cli.app import CFG_OPTIONS, progress_bar, quiet_imports, stderr, stdout

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.exported import ExportedBenchmark
    from benchmarks.predict import PredictionBenchmark


class Exported(str, Enum):
    """Ways to run a model that are timed side by side; see :data:`benchmarks.exported.BACKENDS`."""

    MMDET = "mmdet"
    TORCH = "torch"
    ONNX = "onnx"
    OPENVINO = "openvino"
    INT8 = "int8"


def predict(
    configs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[CONFIG]…",
            help="Recipes, with random weights. With --backend, --graph or --data also checkpoints, runs and bundles, "
            "as [NAME=]MODEL[@BACKEND,…] where one is to have a name or backends of its own.",
            show_default="retina_14cls faster_rcnn_14cls",
        ),
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Timed images of each.")] = 10,
    size: Annotated[
        int | None,
        typer.Option(
            min=32,
            help="Sides of the images in pixels, before resizing; of a DICOM, the short edge.",
            show_default="1024; 2500",
        ),
    ] = None,
    images: Annotated[int, typer.Option("--images", min=1, help="Different images, also for calibration.")] = 4,
    threads: Annotated[int, typer.Option(min=1, help="Processor threads of each.")] = 2,
    int8: Annotated[bool, typer.Option("--int8/--no-int8", help="Quantise as well; takes minutes.")] = True,
    backends: Annotated[
        list[Exported] | None,
        typer.Option(
            "--backend", help="Time all models in one run, by these. Repeatable.", show_default="openvino int8"
        ),
    ] = None,
    graphs: Annotated[
        list[str] | None,
        typer.Option(
            "--graph",
            metavar="NAME=FILE",
            help="Time a graph of YOLO too, an .xml or .onnx exported without NMS. Repeatable.",
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            exists=True,
            file_okay=False,
            help="A prepared folder: its validation images score the models, its training images calibrate eight bits.",
        ),
    ] = None,
    ann_file: Annotated[
        str | None, typer.Option(help="COCO file in --data that scores.", show_default="its only annotations/val_*")
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(metavar="FILE", dir_okay=False, help="Draw mAP against milliseconds here; needs --data."),
    ] = None,
    by_cpu: Annotated[
        bool, typer.Option("--cpu", help="Compare and draw processor time, over all threads, for a busy machine.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print every round as JSON, for programs.")] = False,
    cfg_options: Annotated[
        list[str] | None,
        typer.Option(CFG_OPTIONS, metavar="KEY=VALUE…", help="Override config keys, as model.backbone.depth=18."),
    ] = None,
) -> None:
    """Compare prediction, from file to findings, with stock mmdet's and torchvision's; weights are random.

    With --backend, --graph or --data, exported models and the graphs of others are timed instead, all in one run: the
    network alone, with its decoding, and from a DICOM of 2500 x 3000 px and 16 bits in memory to findings.
    """
    from cxr_mmdet.errors import UsageError

    if plot and data is None:
        raise UsageError("--plot: draws the mAP of a prepared folder; pass --data.")
    if backends or graphs or data:
        with quiet_imports():
            from benchmarks.exported import benchmark_exported, draw_points, find_val_file

        # NNCF shows its progress on stdout.
        with contextlib.redirect_stdout(sys.stderr), progress_bar("rounds") as report:
            result = benchmark_exported(
                configs or [],
                graphs or [],
                backends=[backend.value for backend in backends or (Exported.OPENVINO, Exported.INT8)],
                val_file=None if data is None else find_val_file(data, ann_file),
                rounds=rounds,
                threads=threads,
                size_hw=(6 * (size or 2500) // 5, size or 2500),
                clock="cpu_s" if by_cpu else "wall_s",
                cfg_options=cfg_options or [],
                progress=report,
            )
        _print_exported(result, as_json)
        if plot and data:
            draw_points(
                plot,
                result.points("cpu_s" if by_cpu else "wall_s"),
                title=f"{data.resolve().name}, {threads} thread{'s' * (threads > 1)}",
                unit="CPU ms" if by_cpu else "ms",
            )
            stderr.print(f"wrote {plot}", highlight=False)
        return
    import tempfile

    with quiet_imports():
        from benchmarks.predict import benchmark_predict
        from cxr_mmdet.engine.config import load_config

    results = []
    for name in configs or ("retina_14cls", "faster_rcnn_14cls"):
        loaded = load_config(name, load_from="none", cfg_options=cfg_options or [])
        with tempfile.TemporaryDirectory() as folder, progress_bar(name) as report:
            results.append(
                benchmark_predict(
                    loaded,
                    Path(name).stem,
                    Path(folder),
                    rounds=rounds,
                    size=size or 1024,
                    images=images,
                    threads=threads,
                    int8=int8,
                    progress=report,
                )
            )
    _print_predictions(results, as_json)


def _print_predictions(results: Sequence[PredictionBenchmark], as_json: bool) -> None:
    import json

    from benchmarks.machine import describe_machine
    from benchmarks.report import comparison_table, machine_line, prediction_table

    machine = describe_machine()
    if as_json:
        document = {"machine": machine, "predictions": [result.to_json() for result in results]}
        typer.echo(json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False))
        return
    for result in results:
        stdout.print(comparison_table(result.comparison))
        stdout.print(prediction_table(result))
    stdout.print(machine_line(machine), highlight=False)


def _print_exported(result: ExportedBenchmark, as_json: bool) -> None:
    import json

    from benchmarks.machine import describe_machine
    from benchmarks.report import comparison_table, machine_line
    from cxr_mmdet.pages import format_score

    machine = describe_machine()
    if as_json:
        typer.echo(json.dumps({"machine": machine} | result.to_json(), indent=2, sort_keys=True, ensure_ascii=False))
        return
    for comparison in result.comparisons:
        stdout.print(comparison_table(comparison))
    for name, score in result.mean_ap.items():
        if score is not None:
            stdout.print(f"mAP@[.5:.95] {format_score(score)} {name}", highlight=False)
    stdout.print(machine_line(machine), highlight=False)
