"""``train CONFIG``: train a detector on a prepared folder."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cxr_mmdet.cli.app import CFG_OPTIONS, CxrTyper, TrustOption, print_notes, quiet_imports, stdout
from cxr_mmdet.recipes import describe_switch, switch_names

if TYPE_CHECKING:
    from cxr_mmdet.engine.running import TrainingOutcome

app = CxrTyper(help=__doc__)


class Launcher(str, Enum):
    """Launcher of the processes of a distributed run."""

    none = "none"
    pytorch = "pytorch"
    slurm = "slurm"


ConfigArgument = Annotated[str, typer.Argument(help="A config's path, or the name of a recipe such as retina_5cls.")]
DataRootOption = Annotated[
    Path | None, typer.Option(help="The prepared folder; replaces the config's data_root everywhere.")
]
LabelsOption = Annotated[
    str | None,
    typer.Option(
        metavar="14|5|auto|NAME",
        help="The label set of the prepared folder, whose classes are learned; fold2/14 is that of its second fold.",
        show_default="the config's, or the folder's only one",
    ),
]
LoadFromOption = Annotated[
    str | None, typer.Option(help="Starting weights: a file, a URL, phantom (see pretrain), or none.")
]
WorkDirOption = Annotated[
    Path | None,
    typer.Option(help="Folder that the run writes to.", show_default="work_dirs/<config>_<labels>+<switch>"),
]
LauncherOption = Annotated[Launcher, typer.Option(help="pytorch under torchrun, slurm under srun.")]
SwitchesOption = Annotated[
    list[str] | None,
    typer.Option(
        "--with",
        metavar="SWITCH,…",
        help="Switches to overlay on the config: names separated by commas, as train --help lists them, or a file.",
    ),
]
CfgOptions = Annotated[
    list[str] | None,
    typer.Option(CFG_OPTIONS, metavar="KEY=VALUE…", help="Override config keys, as train_cfg.max_iters=500."),
]


_SWITCHES = "Switches for --with:\n\n" + "\n\n".join(
    f"[bold]{name}[/]  {describe_switch(name)}" for name in switch_names()
)


@app.command(epilog=_SWITCHES)
def train(
    config: ConfigArgument,
    data_root: DataRootOption = None,
    labels: LabelsOption = None,
    work_dir: WorkDirOption = None,
    load_from: LoadFromOption = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue from the newest checkpoint of the work dir.")
    ] = False,
    amp: Annotated[
        bool, typer.Option("--amp", help="Mixed precision: float16 on a GPU, bfloat16 on a CPU that has it.")
    ] = False,
    auto_scale_lr: Annotated[
        bool, typer.Option("--auto-scale-lr", help="Scale the learning rate to the real batch size.")
    ] = False,
    trust_checkpoint: TrustOption = False,
    launcher: LauncherOption = Launcher.none,
    with_: SwitchesOption = None,
    cfg_options: CfgOptions = None,
) -> None:
    """Train a detector; the best checkpoint by mAP@.5 on the validation split is kept.

    For several GPUs: torchrun --nproc_per_node=N tools/train.py CONFIG --launcher pytorch
    """
    with quiet_imports():
        from cxr_mmdet.engine import config as configs
        from cxr_mmdet.engine.precision import has_fast_bfloat16
        from cxr_mmdet.engine.running import is_main_process
        from cxr_mmdet.engine.running import train as run

    loaded = configs.load_config(
        config,
        data_root=data_root,
        labels=labels,
        work_dir=work_dir,
        load_from=load_from,
        switches=with_ or [],
        cfg_options=cfg_options or [],
    )
    if amp:
        configs.enable_amp(loaded)
        if loaded.optim_wrapper.type == "CpuAmpOptimWrapper" and has_fast_bfloat16() is False:
            print_notes(["this CPU has no bfloat16 arithmetic, so --amp will make training slower."])
    if auto_scale_lr:
        loaded.auto_scale_lr.enable = True
    outcome = run(loaded, launcher=launcher.value, resume=resume, trust_checkpoint=trust_checkpoint)
    if not is_main_process():
        return
    for line in outcome_lines(outcome):
        stdout.print(line, highlight=False)


def outcome_lines(outcome: TrainingOutcome) -> list[str]:
    """Return the files of a finished training as lines; paths in the work dir begin as the work dir itself does."""
    paths = {
        "best checkpoint": outcome.best_checkpoint,
        "last checkpoint": outcome.last_checkpoint,
        "curves": outcome.curves,
    }
    lines = [f"{'work dir':<16} {outcome.work_dir}"]
    for title, path in paths.items():
        if path is not None and path.resolve().is_relative_to(outcome.work_dir.resolve()):
            path = outcome.work_dir / path.resolve().relative_to(outcome.work_dir.resolve())
        lines.append(f"{title:<16} {path or 'none'}")
    return lines
