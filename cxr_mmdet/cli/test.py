"""``test CONFIG CHECKPOINT``: mAP of a trained detector on a prepared folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cxr_mmdet.cli.app import CxrTyper, TrustOption, quiet_imports, stdout
from cxr_mmdet.cli.train import (
    CfgOptions,
    ConfigArgument,
    DataRootOption,
    LabelsOption,
    Launcher,
    LauncherOption,
    SwitchesOption,
    WorkDirOption,
)
from cxr_mmdet.structures.enums import SplitName

app = CxrTyper(help=__doc__)


@app.command()
def test(
    config: ConfigArgument,
    checkpoint: Annotated[str, typer.Argument(help="A checkpoint, or a run's folder for its best one.")],
    split: Annotated[SplitName, typer.Option(help="The images to score on.")] = SplitName.VAL,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for detections.json and metrics.json.", show_default="<work dir>/test_<split>"),
    ] = None,
    data_root: DataRootOption = None,
    labels: LabelsOption = None,
    work_dir: WorkDirOption = None,
    trust_checkpoint: TrustOption = False,
    launcher: LauncherOption = Launcher.none,
    with_: SwitchesOption = None,
    cfg_options: CfgOptions = None,
) -> None:
    """Score a checkpoint: mAP@[.5:.95], mAP@.5 and per class, as a table and as files."""
    with quiet_imports():
        from cxr_mmdet.engine.config import load_config
        from cxr_mmdet.engine.running import score_checkpoint
    from cxr_mmdet.evaluation.terminal import result_tables

    loaded = load_config(
        config,
        data_root=data_root,
        labels=labels,
        work_dir=work_dir,
        switches=with_ or [],
        cfg_options=cfg_options or [],
    )
    outcome = score_checkpoint(
        loaded,
        checkpoint,
        split=split.value,
        out_dir=out,
        launcher=launcher.value,
        trust_checkpoint=trust_checkpoint,
    )
    if outcome is None:
        return
    for part in result_tables(outcome.evaluation):
        stdout.print(part)
    for name in ("detections.json", "metrics.json"):
        stdout.print(outcome.out_dir / name, highlight=False)
