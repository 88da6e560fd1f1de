"""``ensemble DETECTIONS…``: fuse the detection files of several models."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cxr_mmdet.cli.app import CxrTyper, ReplaceOption, print_notes, refuse_to_overwrite, stderr, stdout
from cxr_mmdet.cli.predict import FusionIouOption, FusionOption, WeightsOption
from cxr_mmdet.errors import UsageError, counted
from cxr_mmdet.structures.enums import DetectionFusion

app = CxrTyper(help=__doc__)


@app.command(no_args_is_help=True)
def ensemble(
    detections: Annotated[
        list[Path],
        typer.Argument(metavar="DETECTIONS…", exists=True, dir_okay=False, help="COCO results, one file per model."),
    ],
    coco: Annotated[
        list[Path],
        typer.Option(
            exists=True,
            dir_okay=False,
            help="Annotation file of all results, or repeated once per results file in their order; images are then "
            "matched by file name and classes by name.",
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="FILE", dir_okay=False, help="COCO results file to write.")],
    fusion: FusionOption = DetectionFusion.WBF,
    fusion_iou: FusionIouOption = 0.5,
    weight: WeightsOption = None,
    force: ReplaceOption = False,
) -> None:
    """Fuse the detections of several models on the same images.

    The result uses the ids of the first annotation file; score it with tools/evaluate.py run.
    """
    from cxr_mmdet.batch.fuse_files import fuse_files, fuse_p_abnormal
    from cxr_mmdet.evaluation.image_level import write_p_abnormal
    from cxr_mmdet.structures.coco import write_detections

    refuse_to_overwrite(force, out, inputs=(*detections, *coco))
    if len(coco) not in (1, len(detections)):
        raise UsageError(f"{len(coco)} times --coco for {len(detections)} files: give it once, or once for each file.")
    notes: list[str] = []
    fused = fuse_files(detections, coco, method=fusion, iou_threshold=fusion_iou, weights=weight, notes=notes)
    gated = fuse_p_abnormal(detections, coco, weights=weight)
    write_detections(out, fused)
    write_p_abnormal(out, gated)
    print_notes(notes)
    stderr.print(f"{counted(len(fused), 'detection')} from {counted(len(detections), 'file')}", highlight=False)
    stdout.print(out, highlight=False)
