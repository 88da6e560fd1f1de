"""The arguments that the verbs of ``evaluate`` share, and the files behind them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cxr_mmdet.cli.app import stderr
from cxr_mmdet.errors import DatasetError, UsageError
from cxr_mmdet.structures.enums import HitCriterion

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from cxr_mmdet.structures.coco import CocoDict, Detection

GroundTruth = Annotated[Path, typer.Argument(metavar="GT", exists=True, dir_okay=False, help="COCO annotation file.")]
_results = "COCO results of any detector, or a submission.csv."
Detections = Annotated[Path, typer.Argument(metavar="DETECTIONS", exists=True, dir_okay=False, help=_results)]
FirstDetections = Annotated[Path, typer.Argument(metavar="A", exists=True, dir_okay=False, help=_results)]
SecondDetections = Annotated[Path, typer.Argument(metavar="B", exists=True, dir_okay=False, help=_results)]
Force = Annotated[bool, typer.Option("--force", help="Replace earlier files.")]
PAbnormal = Annotated[
    Path | None,
    typer.Option(
        "--p-abnormal",
        metavar="FILE",
        exists=True,
        dir_okay=False,
        help="Each image's probability of being abnormal, CSV or JSON.",
        show_default="what a gate left beside DETECTIONS, else an image's highest score",
    ),
]
Criterion = Annotated[HitCriterion, typer.Option(help="What counts as found on the FROC curve.")]
Resamples = Annotated[
    int, typer.Option(min=0, help="Bootstrap resamples behind the intervals; 0 leaves the intervals out.")
]
Seed = Annotated[int, typer.Option(min=0, help="Seed of the resamples.")]
Images = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        exists=True,
        file_okay=False,
        help="Folder of the pictures that the report shows.",
        show_default="images/ of the prepared folder, if it is there",
    ),
]
Title = Annotated[str, typer.Option(help="Heading of the page.")]


def read_scored_truth(path: Path) -> CocoDict:
    """Return the ground truth, which must hold something to score against.

    Raises:
        DatasetError: it cannot be read, or holds no box that is not a crowd region.
    """
    from cxr_mmdet.structures.coco import hints_on_boxes, read_coco

    truth = read_coco(path, strict=False)
    boxes = [entry for entry in truth["annotations"] if not entry.get("iscrowd")]
    _print_notes(path, hints_on_boxes(truth, boxes, "boxes"))
    if not boxes:
        raise DatasetError(f"{path}: holds no boxes, so there is nothing to score against.")
    return truth


def read_results(
    path: Path, truth: CocoDict, p_abnormal: Path | None
) -> tuple[list[Detection], NDArray[np.float64] | None]:
    """Return the detections, and each image's probability of being abnormal where a file or a submission gives it.

    Without a file named, the one that a detector with a gate leaves beside its detections.

    Raises:
        DatasetError: a file cannot be read or contradicts the ground truth.
    """
    import numpy as np

    from cxr_mmdet.evaluation.image_level import p_abnormal_path, read_p_abnormal
    from cxr_mmdet.evaluation.submission import read_submission
    from cxr_mmdet.structures.coco import notes_on_detections, read_detections

    beside = p_abnormal_path(path)
    if p_abnormal is None and beside.is_file():
        p_abnormal = beside
    given = read_p_abnormal(p_abnormal, truth) if p_abnormal else None
    if path.suffix.lower() != ".csv":
        found = read_detections(path, truth)
        _print_notes(path, notes_on_detections(truth, found))
        return found, given
    submission = read_submission(path, truth)
    clipped = submission.clipped
    notes = [f"{clipped:,} boxes left their image by up to a pixel and were clipped."] if clipped else []
    _print_notes(path, notes + notes_on_detections(truth, submission.detections))
    if given is None:
        given = np.array([1 - submission.p_no_finding.get(image["id"], 0.0) for image in truth["images"]])
    return submission.detections, given


def _print_notes(path: Path, notes: Sequence[str]) -> None:
    for note in notes:
        stderr.print(f"note: {path}: {note}", highlight=False, soft_wrap=True, markup=False)


def find_images(ground_truth: Path, truth: CocoDict) -> Path | None:
    """Return the prepared folder's pictures, if the ground truth lies in one and they are there."""
    folder = ground_truth.resolve().parent.parent / "images"
    names = [image.get("file_name") for image in truth["images"]]
    return folder if all(isinstance(name, str) and (folder / name).is_file() for name in names) else None


def find_configs(*detections: Path) -> tuple[tuple[str, str], ...]:
    """Return name and text of the config that mmengine left beside each file of detections, where it did."""
    configs = []
    for folder in dict.fromkeys(path.resolve().parent for path in detections):
        for path in sorted(folder.glob("*.py")):
            text = path.read_text(encoding="utf-8", errors="replace")
            if "test_evaluator = " in text:  # no script that happens to lie there
                configs.append((f"{folder.name}/{path.name}", text))
    return tuple(configs)


def refuse_to_overwrite(force: bool, *targets: Path) -> None:
    """Raise if a file is there already.

    Raises:
        UsageError: names the first such file.
    """
    for target in targets:
        if target.exists() and not force:
            raise UsageError(f"{target} exists; pass --force to replace it, or choose another place with --out.")
