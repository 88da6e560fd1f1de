"""``browse CONFIG``: the images that a training sees, with their boxes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cxr_mmdet.cli.app import CxrTyper, progress_bar, quiet_imports, stdout
from cxr_mmdet.cli.train import CfgOptions, ConfigArgument, DataRootOption, LabelsOption, SwitchesOption
from cxr_mmdet.errors import UsageError, counted

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

    if out.is_dir() and any(out.iterdir()) and not force:
        raise UsageError(f"{out}: is not empty; pass --force to write into it, or choose another folder.")
    loaded = load_config(
        config, data_root=data_root, labels=labels, switches=with_ or [], cfg_options=cfg_options or []
    )
    images: list[TrainingImage] = []
    try:
        with progress_bar("images") as report:
            for image in training_images(loaded, count):
                out.mkdir(parents=True, exist_ok=True)
                write_image(out / f"{len(images):03}_{image.image}.png", image.pixels)
                images.append(image)
                report(len(images), count)
    finally:  # also of the images before one that cannot be read
        if images:
            write_grid(out / "grid.png", images)
    normal = sum(not image.boxes for image in images)
    stdout.print(f"{counted(len(images), 'image')}, {normal} without a box: {out / 'grid.png'}", highlight=False)
