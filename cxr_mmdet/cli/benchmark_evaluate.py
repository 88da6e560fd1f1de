"""``benchmark evaluate``: the evaluation's speed against other libraries, its memory and how its cost grows."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from cxr_mmdet.cli.app import progress_bar, stderr, stdout


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

    from cxr_mmdet.benchmarks.evaluate import benchmark_account, benchmark_coco, benchmark_growth, draw_growth
    from cxr_mmdet.benchmarks.machine import describe_machine
    from cxr_mmdet.benchmarks.report import comparison_table, machine_line

    with progress_bar("rounds") as report:
        comparison = benchmark_coco(images, detections, rounds=rounds, memory=memory, progress=report)
    account = benchmark_account(images, detections, resamples=resamples, memory=memory)
    result: dict[str, Any] = {
        "machine": describe_machine(),
        "comparisons": [comparison.to_json()],
        "account": vars(account),
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
    peak = "" if account.peak_bytes is None else f", {account.peak_bytes / 1e6:.0f} MB"
    stdout.print(
        f"all headline numbers with {resamples:,} resamples: {account.match_s:.1f} s to match, "
        f"{account.resample_s:.1f} s to resample (CPU), {account.wall_s:.1f} s by the clock{peak}",
        highlight=False,
    )
    stdout.print(machine_line(result["machine"]), highlight=False)
    if plot:
        stderr.print(f"wrote {plot}", highlight=False)
