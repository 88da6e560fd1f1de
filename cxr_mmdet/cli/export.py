"""``export CHECKPOINT``: write a bundle that predicts with ONNX Runtime or OpenVINO, without mmdet."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cxr_mmdet.cli.app import CxrTyper, TrustOption, print_notes, progress_bar, quiet_imports, stdout
from cxr_mmdet.structures.enums import ExportFormat

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from cxr_mmdet.inference.bundle import Bundle

app = CxrTyper(help=__doc__)


@app.command(no_args_is_help=True)
def export(
    checkpoint: Annotated[
        str, typer.Argument(help="A checkpoint, or the folder of a run, which stands for its best checkpoint.")
    ],
    out: Annotated[Path, typer.Option(metavar="BUNDLE", file_okay=False, help="Output folder.")],
    bundle_format: Annotated[
        ExportFormat, typer.Option("--format", help="Runtime; onnx and openvino predict without torch and mmdet.")
    ] = ExportFormat.ONNX,
    int8: Annotated[
        bool, typer.Option("--int8", help="Quantise to 8 bits (OpenVINO): faster, slightly less exact.")
    ] = False,
    calibration: Annotated[
        list[str] | None,
        typer.Option(
            metavar="DIR",
            help="Radiographs that set the ranges of values for --int8. Repeatable.",
            show_default="the training images",
        ),
    ] = None,
    check: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            help="Also compare with torch on these radiographs: a folder, or an annotation file of a prepared folder, "
            "which adds mAP. --int8 takes the validation images by default.",
        ),
    ] = None,
    data_root: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            exists=True,
            file_okay=False,
            help="The prepared folder of the training, for --int8.",
            show_default="where it was",
        ),
    ] = None,
    max_loss: Annotated[
        float,
        typer.Option(
            min=0,
            max=1,
            help="mAP@[.5:.95] that --int8 may cost. Layers stay in single precision until it is kept; if it is not, "
            "no bundle is written.",
        ),
    ] = 0.005,
    winograd: Annotated[
        bool,
        typer.Option(help="Use Winograd's algorithm and boxes on demand in onnx and openvino bundles: faster on CPUs."),
    ] = True,
    short_edge: Annotated[
        int, typer.Option(min=0, help="Short edge of the prepared images, as in tools/prepare_data.py; 0: full size.")
    ] = 1024,
    trust_checkpoint: TrustOption = False,
    force: Annotated[bool, typer.Option("--force", help="Replace an earlier bundle.")] = False,
) -> None:
    """Export a detector, compare it with torch, and fail where the results differ.

    The bundle holds the weights, model.json and MODEL_CARD.md; tools/predict.py takes its folder as MODEL.
    """
    from cxr_mmdet.structures.radiograph_files import find_radiographs

    with quiet_imports():
        from cxr_mmdet.inference.export.export import ExportOptions, export_model
        from cxr_mmdet.inference.export.parity import nothing_compared

    options = ExportOptions(
        format=bundle_format,
        int8=int8,
        calibration=tuple(find_radiographs(calibration)) if calibration else (),
        check=check,
        data_root=data_root,
        max_loss=max_loss,
        winograd=winograd,
        short_edge=short_edge,
        trust_checkpoint=trust_checkpoint,
        force=force,
    )
    # NNCF shows its progress on stdout.
    with contextlib.redirect_stdout(sys.stderr), progress_bar("comparing with torch") as progress:
        bundle = export_model(checkpoint, out, options, progress=progress)
    stdout.print(parity_table(bundle))
    if nothing := nothing_compared((bundle.parity or {}).get("sets", [])):
        print_notes([f"{nothing}; pass --check with radiographs of what the model finds, or train longer."])
    if int8:
        stdout.print(loss_table(bundle))
    stdout.print(bundle.path, highlight=False)


def parity_table(bundle: Bundle) -> Table:
    """Return the largest differences from torch, one row per set of radiographs."""
    from cxr_mmdet.pages import format_score

    heads = ("", "findings", "unmatched", "box, px", "score", "mAP, torch", "mAP")
    table = _table(f"{bundle.model_id}: largest differences from torch", heads)
    sets = (bundle.parity or {}).get("sets", [])
    gated = any(entry.get("largest_p_abnormal_difference") is not None for entry in sets)
    if gated:
        table.add_column("p_abnormal", justify="right")
    for entry in sets:
        table.add_row(
            f"{entry['images']} {entry['name']}",
            str(entry["findings"]),
            str(entry["unmatched"]),
            f"{entry['largest_box_difference_px']:.3g}",
            f"{entry['largest_score_difference']:.2g}",
            *(format_score(entry[key]) for key in ("reference_mean_ap", "mean_ap")),
            *([f"{entry['largest_p_abnormal_difference']:.2g}"] if gated else []),
        )
    return table


def loss_table(bundle: Bundle) -> Table:
    """Return what eight bits cost, and as its caption which layers stay in single precision."""
    from cxr_mmdet.inference.export.model_card import LOSS_HEAD, loss_rows, quantisation_sentences

    table = _table("Eight bits against single precision; 95 % intervals", LOSS_HEAD)
    table.caption, table.caption_justify = quantisation_sentences(bundle.parity), "left"
    for row in loss_rows(bundle.parity):
        table.add_row(*row)
    return table


def _table(title: str, heads: Sequence[str]) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(title=title, title_style="bold", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for place, head in enumerate(heads):
        table.add_column(head, justify="right" if place else "left", no_wrap=True)
    return table
