"""``browse CONFIG``: the images that a training sees, with their boxes."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from cxr_mmdet.cli.app import CxrTyper, progress_bar, quiet_imports, stdout
from cxr_mmdet.cli.train import CfgOptions, ConfigArgument, DataRootOption, LabelsOption, SwitchesOption
from cxr_mmdet.errors import UsageError, counted
from cxr_mmdet.files import sole_use

app = CxrTyper(help=__doc__)


@app.command()
def browse(
    config: ConfigArgument,
    out: Annotated[Path, typer.Option(metavar="DIR", file_okay=False, help="Folder to write the images to.")],
    count: Annotated[int, typer.Option(min=1, help="Number of images.")] = 16,
    force: Annotated[bool, typer.Option("--force", help="Write into a folder that is not empty.")] = False,
    data_root: DataRootOption = None,
    labels: LabelsOption = None,
    with_: SwitchesOption = None,
    cfg_options: CfgOptions = None,
) -> None:
    """Save the first training images after the whole pipeline with their boxes drawn: one PNG each, and grid.png."""
    with quiet_imports():
        from cxr_mmdet.engine.config import load_config
        from cxr_mmdet.engine.inspection import TrainingImage, training_images, write_grid, write_image

    _refuse_filled(out, force)
    loaded = load_config(
        config, data_root=data_root, labels=labels, switches=with_ or [], cfg_options=cfg_options or []
    )
    images: list[TrainingImage] = []
    with ExitStack() as stack:
        report = stack.enter_context(progress_bar("images"))
        for image in training_images(loaded, count):
            if not images:
                stack.enter_context(sole_use(out, "choose another folder"))
                _refuse_filled(out, force)  # by a browse that ended meanwhile
            write_image(out / f"{len(images):03}_{image.image}.png", image.pixels)
            images.append(image)
            if len(images) == 1:  # written at the end, also where a later image cannot be read
                stack.callback(write_grid, out / "grid.png", images)
            report(len(images), count)
    normal = sum(not image.boxes for image in images)
    stdout.print(f"{counted(len(images), 'image')}, {normal} without a box: {out / 'grid.png'}", highlight=False)


def _refuse_filled(out: Path, force: bool) -> None:
    if not force and out.is_dir() and any(out.iterdir()):
        raise UsageError(f"{out}: is not empty; pass --force to write into it, or choose another folder.")
