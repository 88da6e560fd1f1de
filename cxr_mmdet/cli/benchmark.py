"""``benchmark``: ours and the alternative, turn by turn in one process; every claim about speed comes from here."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cxr_mmdet.cli.app import CFG_OPTIONS, CxrTyper, progress_bar, quiet_imports, stdout

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cxr_mmdet.benchmarks.harness import Comparison
    from cxr_mmdet.benchmarks.pipeline import StepTime
    from cxr_mmdet.benchmarks.predict import PredictionBenchmark

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
        Path, typer.Argument(metavar="DATA", exists=True, file_okay=False, help="A prepared folder, with pictures.")
    ],
    config: Annotated[str, typer.Option(help="A recipe whose steps stock mmdet can do too.")] = "retina_14cls",
    ann_file: Annotated[
        str | None, typer.Option(help="COCO file in DATA.", show_default="its first training file")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Timed rounds.")] = 20,
    pictures: Annotated[int, typer.Option(min=1, help="Pictures a round.")] = 8,
    memory: Memory = False,
    as_json: Json = False,
    cfg_options: CfgOptions = None,
) -> None:
    """Compare the training pipeline, from file to model input, with stock mmdet's on one core."""
    with quiet_imports():
        from cxr_mmdet.benchmarks.pipeline import benchmark_pipeline
        from cxr_mmdet.engine.config import load_config

    loaded = load_config(config, cfg_options=cfg_options or [])
    with progress_bar("rounds") as report:
        result = benchmark_pipeline(
            loaded, data, ann_file=ann_file, rounds=rounds, pictures=pictures, memory=memory, progress=report
        )
    _print(result.comparisons, as_json, result.steps)


@app.command()
def train_step(
    configs: Annotated[
        list[str] | None,
        typer.Argument(metavar="[CONFIG]…", help="Recipes.", show_default="retina_5cls faster_rcnn_5cls"),
    ] = None,
    size: Annotated[int, typer.Option(min=32, help="Sides of the pictures in pixels.")] = 384,
    batch_size: Annotated[int, typer.Option(min=1, help="Pictures an iteration.")] = 1,
    rounds: Annotated[int, typer.Option(min=1, help="Timed iterations of each model.")] = 6,
    threads: Annotated[int, typer.Option(min=1, help="Threads of torch.")] = 1,
    memory: Memory = False,
    as_json: Json = False,
    cfg_options: CfgOptions = None,
) -> None:
    """Compare training iterations with stock mmdet's: the same models, weights and pictures."""
    with quiet_imports():
        import torch

        from cxr_mmdet.benchmarks.train_step import benchmark_train_step
        from cxr_mmdet.engine.config import load_config

    torch.set_num_threads(threads)
    comparisons = []
    for name in configs or ("retina_5cls", "faster_rcnn_5cls"):
        loaded = load_config(name, load_from="none", cfg_options=cfg_options or [])
        with progress_bar(name) as report:
            comparisons.append(
                benchmark_train_step(
                    loaded,
                    Path(name).stem,
                    size=size,
                    batch_size=batch_size,
                    rounds=rounds,
                    memory=memory,
                    progress=report,
                )
            )
    _print(comparisons, as_json)


@app.command()
def predict(
    configs: Annotated[
        list[str] | None,
        typer.Argument(metavar="[CONFIG]…", help="Recipes.", show_default="retina_14cls faster_rcnn_14cls"),
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Timed pictures of each.")] = 10,
    size: Annotated[int, typer.Option(min=32, help="Sides of the pictures in pixels, before resizing.")] = 1024,
    pictures: Annotated[int, typer.Option(min=1, help="Different pictures, also for calibration.")] = 4,
    threads: Annotated[int, typer.Option(min=1, help="Processor threads of each.")] = 2,
    int8: Annotated[bool, typer.Option("--int8/--no-int8", help="Quantise as well; takes minutes.")] = True,
    as_json: Json = False,
    cfg_options: CfgOptions = None,
) -> None:
    """Compare prediction, from file to findings, with stock mmdet's and torchvision's; weights are random."""
    import tempfile

    with quiet_imports():
        from cxr_mmdet.benchmarks.predict import benchmark_predict
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
                    size=size,
                    pictures=pictures,
                    threads=threads,
                    int8=int8,
                    progress=report,
                )
            )
    _print_predictions(results, as_json)


def _print_predictions(results: Sequence[PredictionBenchmark], as_json: bool) -> None:
    import json

    from cxr_mmdet.benchmarks.machine import describe_machine
    from cxr_mmdet.benchmarks.report import comparison_table, machine_line, prediction_table

    machine = describe_machine()
    if as_json:
        document = {"machine": machine, "predictions": [result.to_json() for result in results]}
        typer.echo(json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False))
        return
    for result in results:
        stdout.print(comparison_table(result.comparison))
        stdout.print(prediction_table(result))
    stdout.print(machine_line(machine), highlight=False)


def _print(comparisons: Sequence[Comparison], as_json: bool, steps: Sequence[StepTime] = ()) -> None:
    """Print the result of any benchmark: a table a comparison, then the steps if there are any, then the machine."""
    import json

    from cxr_mmdet.benchmarks.machine import describe_machine
    from cxr_mmdet.benchmarks.report import comparison_table, machine_line, steps_table

    machine = describe_machine()
    if as_json:
        report: dict[str, Any] = {
            "machine": machine,
            "comparisons": [entry.to_json() for entry in comparisons],
            "steps": [vars(step) for step in steps],
        }
        typer.echo(json.dumps(report, indent=2, sort_keys=True, ensure_ascii=False))
        return
    for comparison in comparisons:
        stdout.print(comparison_table(comparison))
    if steps:
        stdout.print(steps_table(steps))
    stdout.print(machine_line(machine), highlight=False)
