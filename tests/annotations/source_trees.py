"""Trees of annotation tools, written by hand for tests of their readers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from cxr_mmdet.annotations.sources import read_source
from cxr_mmdet.structures.boxes import XYXY_COLUMNS

if TYPE_CHECKING:
    from pathlib import Path

    from cxr_mmdet.annotations.sources.base import Source

WIDTH, HEIGHT = 200, 100
"""Of every image in these trees."""


def write_tree(root: Path, files: dict[str, str | bytes | None]) -> Path:
    """Write text files (LF), bytes, and grey images of WIDTH x HEIGHT for None."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if content is None:
            Image.fromarray(np.full((HEIGHT, WIDTH), 90, np.uint8)).save(path)
        else:
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return root


def rows_by_image(source: Source) -> dict[str, list[tuple]]:
    """Return image → class, reader and box of each of its rows; the box is None for "No finding"."""
    found: dict[str, list[tuple]] = {}
    for row in source.rows.itertuples(index=False):
        box = tuple(getattr(row, column) for column in XYXY_COLUMNS)
        found.setdefault(row.image_id, []).append((row.class_name, row.reader, None if np.isnan(box[0]) else box))
    return found


def read_tree(root: Path, files: dict[str, str | bytes | None], **options: str) -> Source:
    """Write a tree and read it, by its content unless a format is named."""
    return read_source(write_tree(root, files), **options)
