"""List the recipes, show a resolved config, or copy a recipe to a config of your own."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from cxr_mmdet.cli.app import CxrTyper, ReplaceOption, quiet_imports, refuse_to_overwrite, stderr, stdout
from cxr_mmdet.cli.train import CfgOptions, ConfigArgument, DataRootOption, LabelsOption, LoadFromOption, SwitchesOption
from cxr_mmdet.commands import command
from cxr_mmdet.errors import UsageError
from cxr_mmdet.files import atomic_path
from cxr_mmdet.recipes import config_names, copy_of, describe_config

app = CxrTyper(help=__doc__, no_args_is_help=True)


@app.command("list")
def list_() -> None:
    """List the recipes by name."""
    names = config_names()
    width = max(map(len, names))
    for name in names:
        stdout.print(f"{name:<{width}}  {describe_config(name)}", highlight=False, markup=False)


@app.command()
def show(
    config: ConfigArgument,
    cost: Annotated[
        bool, typer.Option("--cost", help="Print the number of parameters and multiply-adds instead.")
    ] = False,
    data_root: DataRootOption = None,
    labels: LabelsOption = None,
    load_from: LoadFromOption = None,
    with_: SwitchesOption = None,
    cfg_options: CfgOptions = None,
) -> None:
    """Print the resolved config that a training with these options would use.

    Without a prepared folder, classes and annotation files of a recipe that takes them from the data stay open.
    """
    with quiet_imports():
        from cxr_mmdet.engine.config import class_names, load_config

    loaded = load_config(
        config,
        data_root=data_root,
        labels=labels,
        load_from=load_from,
        switches=with_ or [],
        cfg_options=cfg_options or [],
    )
    if not cost:
        typer.echo(loaded.pretty_text)
        return
    with quiet_imports():
        from cxr_mmdet.engine.inspection import measure_cost

    measured = measure_cost(loaded)
    rows = {
        "image size": f"{measured.side} x {measured.side} px, the test size",
        "classes": str(len(class_names(loaded))),
        "parameters": f"{measured.parameters / 1e6:.2f} million",
        "multiply-adds": f"{measured.multiply_adds / 1e9:.2f} billion per image (called FLOPs in mmdet's tables)",
    }
    for name, value in rows.items():
        stdout.print(f"{name:<14} {value}", highlight=False)


@app.command()
def copy(
    config: ConfigArgument,
    file: Annotated[Path, typer.Argument(dir_okay=False, help="The config to write, such as mine.py.")],
    force: ReplaceOption = False,
) -> None:
    """Copy a recipe to a config of your own, which inherits the same bases by name (cxr::…) from any folder."""
    if file.suffix != ".py":
        raise UsageError(f"{file}: a config is a Python file; give a name that ends in .py.")
    refuse_to_overwrite(force, file, inputs=(Path(config),))
    text = copy_of(config)
    with atomic_path(file) as temporary:
        temporary.write_text(text, encoding="utf-8")
    train = f"{command('train')} {shlex.quote(str(file))}"
    stderr.print(f"{file}: change what you need, then train it by {train}", highlight=False, markup=False)
