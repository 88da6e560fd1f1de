"""Command of the quality benchmark."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cxr_mmdet.cli.app import CFG_OPTIONS, quiet_imports, stderr, stdout


def quality(
    data: Annotated[
        Path, typer.Argument(metavar="DATA", exists=True, file_okay=False, help="A prepared folder, with images.")
    ],
    contestants: Annotated[
        list[str],
        typer.Argument(
            metavar="CONTESTANT…",
            help="Recipes, with switches as retina_phantom+repeat_factor, or as retina_lungs+torchvision for "
            "torchvision's RetinaNet on the recipe's backbone. retina_small+from:FILE starts from weights, all others "
            "from random ones. yolo11n and the like are ultralytics', in an environment of their own (--yolo-python). "
            "The first is what the others are compared with. "
            "partial:RECIPE files DATA as three hospitals that looked for different classes, and stands for partial "
            "labels, unknown as absent, one detector per hospital and full labels.",
        ),
    ],
    out: Annotated[Path, typer.Option(help="For the runs; one that it holds already is not repeated.")] = Path(
        "work_dirs/quality"
    ),
    minutes: Annotated[
        float, typer.Option(min=0.01, help="Processor time of each training, summed over threads.")
    ] = 15,
    iterations: Annotated[
        int | None, typer.Option(min=1, help="Of each training, in place of --minutes: for switches alike in cost.")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Trainings of each contestant, per fold.")] = 3,
    folds: Annotated[
        int | None,
        typer.Option(min=2, metavar="K", help="Train on all but one of K folds of the patients in turn."),
    ] = None,
    fold_seed: Annotated[int, typer.Option(min=0, help="Of the folds, and of the patients of --label-share.")] = 0,
    fold_only: Annotated[
        list[int] | None, typer.Option(min=1, metavar="N", help="Run this fold. Repeatable.", show_default="all")
    ] = None,
    label_share: Annotated[
        float, typer.Option(min=0.001, max=1, help="Share of the training patients to keep; small within large.")
    ] = 1.0,
    yolo_python: Annotated[
        Path | None,
        typer.Option(metavar="FILE", exists=True, dir_okay=False, help="Python of an environment with ultralytics."),
    ] = None,
    yolo_options: Annotated[
        list[str] | None,
        typer.Option("--yolo-option", metavar="KEY=VALUE", help="For ultralytics' train. Repeatable."),
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="Threads of torch.")] = 2,
    validations: Annotated[int, typer.Option(min=1, help="During each training; their time does not count.")] = 4,
    resamples: Annotated[int, typer.Option(min=1, help="Bootstrap resamples of seeds and patients.")] = 1000,
    as_json: Annotated[bool, typer.Option("--json", help="Print the scores as JSON, for programs.")] = False,
    cfg_options: Annotated[
        list[str] | None,
        typer.Option(CFG_OPTIONS, metavar="KEY=VALUE…", help="Override keys of every config."),
    ] = None,
) -> None:
    """Train recipes, switches and other libraries' detectors for the same time, and compare what they learned."""
    import json

    with quiet_imports():
        from benchmarks.contestant import Contestant
        from benchmarks.folds import parts_of
        from benchmarks.partial_labels import PLAN, plan_partial
        from benchmarks.quality import run_quality, yolo_settings
        from benchmarks.quality_report import (
            draw_quality,
            gates_table,
            quality_tables,
            read_runs,
            score_gates,
            score_quality,
        )
    from benchmarks.machine import describe_machine
    from benchmarks.report import machine_line
    from cxr_mmdet.errors import UsageError
    from cxr_mmdet.files import write_json

    if any(text.startswith(PLAN) for text in contestants):
        if len(contestants) > 1:
            raise UsageError(f"{PLAN}RECIPE: stands for all contestants of a benchmark; name no other beside it.")
        if folds or label_share < 1:
            raise UsageError(f"{PLAN}RECIPE: files the data by itself; omit --folds and --label-share.")
        data, contestants = plan_partial(contestants[0], data, out)
    named = [Contestant.parse(text) for text in contestants]
    runs = run_quality(
        named,
        parts_of(data, out / "data", folds=folds, fold_seed=fold_seed, only=fold_only or (), label_share=label_share),
        out,
        minutes=minutes,
        iterations=iterations,
        seeds=range(seeds),
        threads=threads,
        validations=validations,
        cfg_options=cfg_options or [],
        yolo=yolo_settings(named, yolo_python, threads, cfg_options or [], yolo_options or []),
        folds=(folds, fold_seed) if folds else None,
        report=lambda line: stderr.print(line, highlight=False),
    )
    trained = read_runs(runs, data, out)
    scores = score_quality(trained, resamples=resamples)
    gates = score_gates(trained, read_runs(runs, data, out, gates=False), resamples=resamples)
    machine = describe_machine()
    document = {
        "machine": machine,
        "contestants": [entry.to_json() for entry in scores],
        "gates": [entry.to_json() for entry in gates],
    }
    stem = "quality" if label_share == 1 else f"quality_{label_share:g}"
    write_json(out / f"{stem}.json", document, indent=2)
    draw_quality(trained, out / f"{stem}.png")
    if as_json:
        typer.echo(json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False))
        return
    for differences in (False, True)[: len(scores)]:
        for table in quality_tables(scores, differences=differences):
            stdout.print(table)
    if gates:
        stdout.print(gates_table(gates))
    stdout.print(machine_line(machine), highlight=False)
    for name in (f"{stem}.json", f"{stem}.png"):
        stderr.print(f"wrote {out / name}", highlight=False)
