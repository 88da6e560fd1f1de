"""Speed, memory and quality measured against the alternative, both in one run."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from benchmarks.predict_cli import predict
from benchmarks.quality_cli import quality
from cxr_mmdet.cli.app import CFG_OPTIONS, CxrTyper, progress_bar, quiet_imports, stderr, stdout
from cxr_mmdet.structures.enums import DEFAULT_STREAMS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.harness import Comparison
    from benchmarks.pipeline import StepTime


def evaluate(
    images: Annotated[int, typer.Option(min=1, help="Images.")] = 3000,
    detections: Annotated[int, typer.Option(min=1, help="Detections on each image.")] = 100,
    rounds: Annotated[int, typer.Option(min=1, help="Timed runs of each library.")] = 3,
    resamples: Annotated[int, typer.Option(min=1, help="Bootstrap resamples of each headline number.")] = 1000,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", dir_okay=False, help="Draw how the cost grows; takes minutes.")
    ] = None,
    memory: Annotated[
        bool, typer.Option("--memory", help="Measure the peak of resident memory as well; Linux.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print every round as JSON, for programs.")] = False,
) -> None:
    """Compare COCO's twelve numbers with pycocotools', and time every number with its interval."""
    import json

    from benchmarks.evaluate import benchmark_coco, benchmark_growth, benchmark_headline, draw_growth
    from benchmarks.machine import describe_machine
    from benchmarks.report import comparison_table, machine_line

    with progress_bar("rounds") as report:
        comparison = benchmark_coco(images, detections, rounds=rounds, memory=memory, progress=report)
    headline = benchmark_headline(images, detections, resamples=resamples, memory=memory)
    result: dict[str, Any] = {
        "machine": describe_machine(),
        "comparisons": [comparison.to_json()],
        "headline": vars(headline),
    }
    if plot:
        with progress_bar("sizes") as report:
            grown = benchmark_growth(resamples=resamples, progress=report)
        draw_growth(plot, grown, resamples)
        result["growth"] = [[vars(entry) for entry in series] for series in grown]
    if as_json:
        typer.echo(json.dumps(result, indent=2, sort_keys=True, ensure_ascii=False))
        return
    stdout.print(comparison_table(comparison))
    peak = "" if headline.peak_bytes is None else f", {headline.peak_bytes / 1e6:.0f} MB"
    stdout.print(
        f"all headline numbers with {resamples:,} resamples: {headline.match_s:.1f} s to match, "
        f"{headline.resample_s:.1f} s to resample (CPU), {headline.wall_s:.1f} s by the clock{peak}",
        highlight=False,
    )
    stdout.print(machine_line(result["machine"]), highlight=False)
    if plot:
        stderr.print(f"wrote {plot}", highlight=False)


app = CxrTyper(no_args_is_help=True)


@app.callback()
def benchmark() -> None:
    """Measure speed and memory against the alternative, both in one run.

    Each round gives a ratio of CPU times, which other programs disturb less than the clock; shown is their median.
    """


Json = Annotated[bool, typer.Option("--json", help="Print every round as JSON, for programs.")]


Memory = Annotated[bool, typer.Option("--memory", help="Measure the peak of resident memory as well; Linux.")]

CfgOptions = Annotated[
    list[str] | None,
    typer.Option(CFG_OPTIONS, metavar="KEY=VALUE…", help="Override config keys, as model.backbone.depth=18."),
]


@app.command(no_args_is_help=True)
def pipeline(
    data: Annotated[
        Path, typer.Argument(metavar="DATA", exists=True, file_okay=False, help="A prepared folder, with images.")
    ],
    config: Annotated[str, typer.Option(help="A recipe whose steps stock mmdet can do too.")] = "retina_14cls",
    ann_file: Annotated[
        str | None, typer.Option(help="COCO file in DATA.", show_default="its first training file")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Timed rounds.")] = 20,
    images: Annotated[int, typer.Option("--images", min=1, help="Images per round.")] = 8,
    memory: Memory = False,
    as_json: Json = False,
    cfg_options: CfgOptions = None,
) -> None:
    """Compare the training pipeline, from file to model input, with stock mmdet's on one core."""
    with quiet_imports():
        from benchmarks.pipeline import benchmark_pipeline
        from cxr_mmdet.engine.config import load_config

    loaded = load_config(config, cfg_options=cfg_options or [])
    with progress_bar("rounds") as report:
        result = benchmark_pipeline(
            loaded, data, ann_file=ann_file, rounds=rounds, images=images, memory=memory, progress=report
        )
    _print(result.comparisons, as_json, result.steps)


@app.command()
def train_step(
    configs: Annotated[
        list[str] | None,
        typer.Argument(metavar="[CONFIG]…", help="Recipes.", show_default="retina_5cls faster_rcnn_5cls"),
    ] = None,
    size: Annotated[int, typer.Option(min=32, help="Sides of the images in pixels.")] = 384,
    batch_size: Annotated[int, typer.Option(min=1, help="Images per iteration.")] = 1,
    rounds: Annotated[int, typer.Option(min=1, help="Timed iterations of each model.")] = 6,
    threads: Annotated[int, typer.Option(min=1, help="Threads of torch.")] = 1,
    with_: Annotated[
        list[str] | None,
        typer.Option(
            "--with",
            metavar="SWITCH,…",
            help="Compare the recipe with these switches to the recipe, instead of to mmdet. Repeatable.",
        ),
    ] = None,
    memory: Memory = False,
    as_json: Json = False,
    cfg_options: CfgOptions = None,
) -> None:
    """Compare training iterations with stock mmdet's: the same models, weights and images."""
    with quiet_imports():
        import torch

        from benchmarks.train_step import PLAIN, benchmark_switches, benchmark_train_step
        from cxr_mmdet.engine.config import load_config

    torch.set_num_threads(threads)
    comparisons = []
    sizes: dict[str, Any] = {"size": size, "batch_size": batch_size, "rounds": rounds, "memory": memory}
    for name in configs or ("retina_5cls", "faster_rcnn_5cls"):
        load = partial(load_config, name, load_from="none", cfg_options=cfg_options or [])
        with progress_bar(name) as report:
            if with_:
                switched = {PLAIN: load()} | {f"with {each}": load(switches=[each]) for each in with_}
                comparisons.append(benchmark_switches(switched, Path(name).stem, progress=report, **sizes))
            else:
                comparisons.append(benchmark_train_step(load(), Path(name).stem, progress=report, **sizes))
    _print(comparisons, as_json)


@app.command("annotations", no_args_is_help=True)
def fuse_annotations(
    table: Annotated[
        Path, typer.Argument(metavar="TABLE", exists=True, help="A readers' table, or the folder that holds one.")
    ],
    rounds: Annotated[int, typer.Option(min=1, help="Timed rounds.")] = 3,
    memory: Memory = False,
    as_json: Json = False,
) -> None:
    """Compare the fusion of readers with ensemble-boxes, and time the way from table to COCO files."""
    from benchmarks.annotations import benchmark_annotations

    with progress_bar("rounds") as report:
        comparisons = benchmark_annotations(table, rounds=rounds, memory=memory, progress=report)
    _print(comparisons, as_json)


@app.command(no_args_is_help=True)
def readers(
    table: Annotated[
        Path, typer.Argument(metavar="TABLE", exists=True, help="A readers' table, or the folder that holds one.")
    ],
    labels: Annotated[str, typer.Option(metavar="14|5|FILE", help="Classes to score.")] = "14",
    resamples: Annotated[int, typer.Option(min=0, help="Draws of images for the intervals; 0: none.")] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the folds and the draws.")] = 0,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", dir_okay=False, help="Draw the order of third readings here.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Score the consensus of readers against a hidden reader: weighted boxes fusion, votes and the model of readers."""
    import json

    from benchmarks.machine import describe_machine
    from benchmarks.readers import (
        benchmark_readers,
        measure_fit,
        plot_readings,
        reading_table,
        simulate_reading,
        study_tables,
    )
    from benchmarks.report import machine_line
    from cxr_mmdet.annotations.sources import read_source
    from cxr_mmdet.structures.labels import LABELS_14, resolve_labels

    rows = read_source(table).rows
    names = resolve_labels(labels, LABELS_14)
    cost = measure_fit(rows, names)
    studies = benchmark_readers(rows, names, resamples=resamples, seed=seed)
    readings = simulate_reading(rows, names)
    if plot:
        plot_readings(plot, readings)
    machine = describe_machine()
    if as_json:
        document = {
            "machine": machine,
            "readings": [vars(each) for each in readings],
            "fit": vars(cost),
            "studies": [study.to_json() for study in studies],
        }
        typer.echo(json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False))
        return
    for study in studies:
        for part in study_tables(study):
            stdout.print(part)
    stdout.print(reading_table(readings))
    peak = f", peak of resident memory {cost.peak_bytes / 1e6:.0f} MB" if cost.peak_bytes else ""
    stdout.print(f"Fit on the whole table: {cost.cpu_s:.1f} s of CPU time, {cost.wall_s:.1f} s{peak}", highlight=False)
    stdout.print(machine_line(machine), highlight=False)


@app.command()
def radiographs(
    width: Annotated[int, typer.Option(min=32, help="Of the images, in pixels.")] = 2500,
    height: Annotated[int, typer.Option(min=32, help="Of the images, in pixels.")] = 3000,
    images: Annotated[int, typer.Option("--images", min=1, help="Different images; a round takes each once.")] = 2,
    rounds: Annotated[int, typer.Option(min=1, help="Timed rounds.")] = 5,
    workers: Annotated[int, typer.Option(min=1, help="Processes to compare with one; 1 leaves that out.")] = 2,
    memory: Memory = False,
    as_json: Json = False,
) -> None:
    """Compare DICOM to prepared PNG with the usual script and the bare codec, in three transfer syntaxes."""
    from benchmarks.radiographs import benchmark_radiographs

    with progress_bar("rounds") as report:
        result = benchmark_radiographs(
            size_hw=(height, width), images=images, rounds=rounds, workers=workers, memory=memory, progress=report
        )
    _print(result.comparisons, as_json, worker_peak_bytes=result.worker_peak_bytes)


@app.command()
def codecs(
    size: Annotated[int, typer.Option(min=32, help="Shorter side of the image in pixels.")] = 2500,
    rounds: Annotated[int, typer.Option(min=1, help="Timed rounds.")] = 3,
    as_json: Json = False,
) -> None:
    """Compare the installed decoders of each compressed transfer syntax, in the order in which they are tried."""
    from benchmarks.codecs import benchmark_codecs

    with progress_bar("rounds") as report:
        comparisons = benchmark_codecs(size=size, rounds=rounds, progress=report)
    _print(comparisons, as_json)


@app.command()
def redraw(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A checkpoint, a run's folder or a bundle.")],
    rounds: Annotated[int, typer.Option(min=1, help="Timed redraws of each kind.")] = 20,
    size: Annotated[int, typer.Option(min=128, max=4096, help="Short edge of the radiograph in pixels.")] = 2500,
    as_json: Json = False,
) -> None:
    """Time the web page: from a slider to the redrawn image, on the server's side."""
    with quiet_imports():
        from benchmarks.redraw import benchmark_redraw
        from cxr_mmdet.inference.predictor import Predictor

        predictor = Predictor.load(model)
    with progress_bar("redrawing") as report:
        comparison = benchmark_redraw(predictor, size=size, rounds=rounds, progress=report)
    _print([comparison], as_json)


@app.command(no_args_is_help=True)
def node(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A checkpoint, a run's folder or a bundle.")],
    rounds: Annotated[int, typer.Option(min=1, help="Timed rounds of each.")] = 5,
    images: Annotated[int, typer.Option("--images", min=1, help="Radiographs per round.")] = 24,
    size: Annotated[int, typer.Option(min=64, max=4096, help="Short edge of the radiographs in pixels.")] = 2500,
    threads: Annotated[int | None, typer.Option(min=1, help="Processor threads.", show_default="all cores")] = None,
    streams: Annotated[int, typer.Option(min=1, help="Of the node, as dicom_node takes it.")] = DEFAULT_STREAMS,
    score_threshold: Annotated[float, typer.Option(min=0, max=1, help="Report findings of at least this score.")] = 0.3,
    findings: Annotated[
        list[int] | None,
        typer.Option(
            metavar="N",
            min=0,
            help="Report the N best of each, whatever their score. Repeatable: measures each.",
            show_default="by score",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Compare prediction of a folder and the DICOM node, from C-STORE to the archived report, with bare prediction."""
    with quiet_imports():
        from benchmarks.node import benchmark_node
        from cxr_mmdet.inference.predictor import Predictor
        from cxr_mmdet.pacs.reporting import ReportOptions, quiet_libraries

        predictor, bare = (Predictor.load(model, threads=threads, streams=count) for count in (streams, 1))
    quiet_libraries()
    own = predictor.model.spec.score_threshold
    reported = [ReportOptions(own, max_findings=count) for count in findings or []]
    comparisons = []
    for options in reported or [ReportOptions(score_threshold)]:
        with progress_bar("rounds") as report:
            comparisons += benchmark_node(
                predictor, bare, images=images, size=size, rounds=rounds, options=options, progress=report
            )
    _print(comparisons, as_json)


def _print(
    comparisons: Sequence[Comparison],
    as_json: bool,
    steps: Sequence[StepTime] = (),
    worker_peak_bytes: int | None = None,
) -> None:
    """Print the result of any benchmark: a table a comparison, then the steps if there are any, then the machine."""
    import json

    from benchmarks.machine import describe_machine
    from benchmarks.report import comparison_table, machine_line, steps_table

    machine = describe_machine()
    if as_json:
        report: dict[str, Any] = {
            "machine": machine,
            "comparisons": [entry.to_json() for entry in comparisons],
            "steps": [vars(step) for step in steps],
            "worker_peak_bytes": worker_peak_bytes,
        }
        typer.echo(json.dumps(report, indent=2, sort_keys=True, ensure_ascii=False))
        return
    for comparison in comparisons:
        stdout.print(comparison_table(comparison))
    if steps:
        stdout.print(steps_table(steps))
    if worker_peak_bytes is not None:
        stdout.print(f"Resident memory of a worker at its peak: {worker_peak_bytes / 1e6:.0f} MB", highlight=False)
    stdout.print(machine_line(machine), highlight=False)


app.command()(evaluate)
app.command()(predict)
app.command()(quality)
