"""``pretrain [RECIPE]``: starting weights for chest radiographs without a download, learned on phantoms."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cxr_mmdet.cli.app import CxrTyper, progress_bar, quiet_imports, stdout
from cxr_mmdet.cli.prepare_data_images import JobsOption
from cxr_mmdet.cli.train import CfgOptions

app = CxrTyper(help=__doc__)


@app.command()
def pretrain(
    recipe: Annotated[str, typer.Argument(help="A recipe's name, or a config's path.")] = "retina_small",
    iterations: Annotated[int | None, typer.Option(min=1, help="Length of the training.", show_default="2000")] = None,
    minutes: Annotated[
        float | None, typer.Option(help="About how long training takes, in place of --iterations.")
    ] = None,
    images: Annotated[int, typer.Option(min=20, help="Number of phantoms.")] = 2400,
    size: Annotated[int, typer.Option(min=1, help="Short edge of a phantom in pixels.")] = 288,
    seed: Annotated[int, typer.Option(help="Seed of the phantoms.")] = 11,
    out: Annotated[
        Path | None, typer.Option(dir_okay=False, help="Weights file.", show_default="in this user's cache")
    ] = None,
    jobs: JobsOption = 1,
    force: Annotated[bool, typer.Option("--force", help="Replace earlier weights, and begin anew.")] = False,
    cfg_options: CfgOptions = None,
) -> None:
    """Train a recipe's network on phantoms with their findings and anatomy, for --load-from phantom.

    The phantoms are drawn once. Started again after an interruption, it goes on from the newest checkpoint.
    """
    with quiet_imports():
        from cxr_mmdet.engine.pretraining import PretrainingOptions
        from cxr_mmdet.engine.pretraining import pretrain as run
    from cxr_mmdet.errors import UsageError

    if iterations is not None and minutes is not None:
        raise UsageError("--iterations and --minutes both say how long; pass one of them.")
    if minutes is not None and minutes <= 0:
        raise UsageError(f"--minutes {minutes:g}: expected a number above 0, such as 30.")
    options = PretrainingOptions(recipe, images, size, seed, iterations or 2000, tuple(cfg_options or ()))
    with progress_bar("drawing phantoms") as progress:
        weights = run(options, minutes=minutes, out=out, jobs=jobs, force=force, progress=progress)
    stdout.print(f"weights     {weights}\nmodel card  {weights.with_suffix('.md')}", highlight=False, markup=False)
