"""Time of the page from a slider to the redrawn image, compared with predicting again."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.harness import Alternative, Comparison, compare
from cxr_mmdet.dicom.viewing import Window, read_viewable
from cxr_mmdet.inference.candidates import find_candidates
from cxr_mmdet.phantom.cases import plan_case
from cxr_mmdet.phantom.dicom_file import Encoding, write_dicom
from cxr_mmdet.phantom.render import render_phantom
from cxr_mmdet.structures.labels import LABELS_14
from cxr_mmdet.web.cases import Case, Filter
from cxr_mmdet.web.decoding import Decoded
from cxr_mmdet.web.markup import findings_html, viewer_html

if TYPE_CHECKING:
    from benchmarks.harness import Progress
    from cxr_mmdet.inference.predictor import Predictor


def benchmark_redraw(predictor: Predictor, *, size: int, rounds: int, progress: Progress | None = None) -> Comparison:
    """Return the times of what a slider causes on the server: images, places to click and table, as they are sent.

    Args:
        predictor: a model.
        size: short edge in pixels of the 14-bit phantom that is shown.
        rounds: timed redraws of each kind.
        progress: called with the number of rounds done, and of all.
    """
    case = _case(predictor, size)
    center, width = case.decoded.viewable.start.center, case.decoded.viewable.start.width

    def redraw() -> None:
        viewer_html(case, None)
        findings_html(case, None)

    def threshold(number: int) -> None:
        case.filter = Filter(0.1 + 0.4 * (number % 8) / 8, 0.5)
        redraw()

    def window(number: int) -> None:
        case.look = replace(case.look, window=Window(center + number % 5, width * (0.5 + 0.1 * (number % 5))))
        redraw()

    def zoom(number: int) -> None:
        case.look = replace(case.look, zoom=1.5 + 0.5 * (number % 4))
        redraw()
        case.look = replace(case.look, zoom=1.0)

    def again(number: int) -> None:
        case.candidates = find_candidates(predictor, case.decoded.radiograph)
        threshold(number)

    alternatives = [
        Alternative("predicting again", again),
        Alternative("threshold moved", threshold),
        Alternative("window moved", window),
        Alternative("zoom moved", zoom),
    ]
    height, wide = case.size_hw
    title = f"Slider to redrawn image, {predictor.model_id}, {wide} x {height} px"
    return compare(
        title, alternatives, item="redraw", items_per_round=1, rounds=rounds, clock="wall_s", progress=progress
    )


def _case(predictor: Predictor, size: int) -> Case:
    phantom = render_phantom(plan_case(11, 0, abnormal_share=1.0, labels=LABELS_14), size=size)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "phantom.dicom"
        write_dicom(path, phantom, Encoding(bits_stored=14, used=(0.05, 0.9)))
        radiograph, viewable = read_viewable(path.read_bytes(), path.name)
    decoded = Decoded(radiograph, viewable, "", "", viewable.nbytes + radiograph.pixels.nbytes)
    return Case("phantom.dicom", decoded, find_candidates(predictor, radiograph), (0.0, 0.0))
