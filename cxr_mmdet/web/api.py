"""Interface for programs: files in, findings out, as findings.json has them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import gradio as gr

from cxr_mmdet.errors import CxrError
from cxr_mmdet.web.cases import Filter
from cxr_mmdet.web.exports import describe
from cxr_mmdet.web.uploads import uploaded_file

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from cxr_mmdet.web.room import ReadingRoom


def predict_files(
    room: ReadingRoom,
    folder: Path,
    files: Sequence[str] | None,
    score_threshold: float | None,
    nms_iou: float | None,
) -> dict[str, Any]:
    """Return the findings of files in the folder of uploads; those that are not radiographs stand under ``failures``.

    Raises:
        gr.Error: the upload as a whole is refused, or a threshold makes no sense.
    """
    if not files:
        raise gr.Error("no file was sent.", print_exception=False)
    start = room.default_filter
    shown = Filter(
        start.score if score_threshold is None else score_threshold, start.nms_iou if nms_iou is None else nms_iou
    )
    try:
        cases, problems = room.open_files([uploaded_file(file, folder) for file in files], shown)
        described = [describe(case) for case in cases]
    except CxrError as error:
        raise gr.Error(str(error), print_exception=False) from None
    room.cases.drop([case.token for case in cases])
    images = [image for each in described for image in each["images"]]  # type: ignore[attr-defined]
    for image, case in zip(images, cases, strict=True):
        del image["verdicts"]
        image["seconds"] = {"decoding": round(case.seconds[0], 4), "network": round(case.seconds[1], 4)}
    return {"labels": list(room.class_names), "images": images, "failures": problems, "research_use_only": True}
