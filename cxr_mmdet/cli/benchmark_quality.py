"""``benchmark quality``: how good detectors become in the same minutes of processor time on the same data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cxr_mmdet.cli.app import CFG_OPTIONS, quiet_imports, stderr, stdout


def quality(
    data: Annotated[
        Path, typer.Argument(metavar="DATA", exists=True, file_okay=False, help="A prepared folder, with pictures.")
    ],
    contestants: Annotated[
        list[str],
        typer.Argument(
            metavar="CONTESTANT…",
            help="Recipes, with switches as retina_phantom+repeat_factor, or as retina_lungs+torchvision for "
            "torchvision's RetinaNet on the recipe's backbone. The first is what the others are compared with.",
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
    seeds: Annotated[int, typer.Option(min=1, help="Trainings of each contestant.")] = 3,
    threads: Annotated[int, typer.Option(min=1, help="Threads of torch.")] = 2,
    validations: Annotated[int, typer.Option(min=1, help="During each training; their time does not count.")] = 4,
    resamples: Annotated[int, typer.Option(min=1, help="Bootstrap resamples of seeds and patients.")] = 1000,
    as_json: Annotated[bool, typer.Option("--json", help="Print the scores as JSON, for programs.")] = False,
    cfg_options: Annotated[
        list[str] | None,
        typer.Option(CFG_OPTIONS, metavar="KEY=VALUE…", help="Override keys of every config."),
    ] = None,
) -> None:
    """Train recipes, switches and torchvision's RetinaNet for the same time, and compare what they learned."""
    import json

    with quiet_imports():
        from cxr_mmdet.benchmarks.quality import Contestant, run_quality
        from cxr_mmdet.benchmarks.quality_report import (
            draw_quality,
            gates_table,
            quality_table,
            read_runs,
            score_gates,
            score_quality,
        )
    from cxr_mmdet.benchmarks.machine import describe_machine
    from cxr_mmdet.benchmarks.report import machine_line
    from cxr_mmdet.files import write_json

    runs = run_quality(
        [Contestant.parse(text) for text in contestants],
        data,
        out,
        minutes=minutes,
        iterations=iterations,
        seeds=range(seeds),
        threads=threads,
        validations=validations,
        cfg_options=cfg_options or [],
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
    write_json(out / "quality.json", document, indent=2)
    draw_quality(trained, out / "quality.png")
    if as_json:
        typer.echo(json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False))
        return
    stdout.print(quality_table(scores, differences=False))
    if len(scores) > 1:
        stdout.print(quality_table(scores, differences=True))
    if gates:
        stdout.print(gates_table(gates))
    stdout.print(machine_line(machine), highlight=False)
    for name in ("quality.json", "quality.png"):
        stderr.print(f"wrote {out / name}", highlight=False)
