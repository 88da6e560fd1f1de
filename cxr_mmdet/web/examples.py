"""Radiographs to try the page with: phantoms, drawn when the service starts, nobody's chest."""

from __future__ import annotations

import base64
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from cxr_mmdet.phantom.cases import plan_case
from cxr_mmdet.phantom.dicom_file import Encoding, write_dicom
from cxr_mmdet.phantom.render import render_phantom
from cxr_mmdet.structures.labels import LABELS_14
from cxr_mmdet.web.uploads import Upload

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cxr_mmdet.phantom.render import Phantom

_SEED = 11
_THUMB = 112
_TRIES = 40


@dataclass(frozen=True)
class Example:
    """A phantom as DICOM, with a thumbnail for the page."""

    title: str
    upload: Upload
    thumbnail: str


def draw_examples(class_names: Sequence[str], *, count: int = 3, size: int = 1024) -> list[Example]:
    """Return phantoms with some of the classes of a model; the last of several is healthy.

    Args:
        class_names: the model's; a model of other classes gets examples of ours.
        count: how many.
        size: their short edge in pixels.
    """
    labels = [name for name in LABELS_14 if name in class_names] or list(LABELS_14)
    wanted = ([True] * max(1, count - 1) + [False])[:count]
    examples: list[Example] = []
    for index in range(_TRIES):
        case = plan_case(_SEED, index, abnormal_share=0.8, labels=labels)
        if len(examples) < count and bool(case.findings) == wanted[len(examples)]:
            examples.append(_example(render_phantom(case, size=size), len(examples) + 1))
    return examples


def _example(phantom: Phantom, number: int) -> Example:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"phantom-{number}.dicom"
        write_dicom(path, phantom, Encoding(bits_stored=14, used=(0.05, 0.9)))
        upload = Upload(path.name, path.read_bytes())
    names = list(dict.fromkeys(finding.label for finding in phantom.findings))
    title = ", ".join(names[:2]) + (" …" if len(names) > 2 else "") if names else "Healthy"
    return Example(title, upload, _thumbnail(phantom.image))


def _thumbnail(image: np.ndarray) -> str:
    height, width = image.shape
    ratio = _THUMB / max(height, width)
    small = cv2.resize(image, (round(width * ratio), round(height * ratio)), interpolation=cv2.INTER_AREA)
    _, data = cv2.imencode(".jpg", np.rint(np.clip(small, 0, 1) * 255).astype(np.uint8))
    return "data:image/jpeg;base64," + base64.b64encode(bytes(data)).decode()
