"""Phantoms to train on, drawn once per machine: prepared folders in the cache."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from cxr_mmdet import __version__
from cxr_mmdet.files import cache_folder, sole_use
from cxr_mmdet.phantom.writer import remove_phantoms, write_phantoms
from cxr_mmdet.preparation.build import build_dataset
from cxr_mmdet.preparation.options import BuildOptions

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

ABNORMAL_SHARE, BEDSIDE_SHARE = 0.7, 0.6


def prepare_phantoms(
    images: int,
    size: int,
    seed: int,
    *,
    jobs: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Return a prepared folder of phantoms in the cache, drawn unless it is there.

    Its classes are the 14 findings and the organs; six in ten patients are imaged at the bedside. Where another process
    draws the same phantoms, this one waits for it.

    Args:
        images: number of phantoms.
        size: their short edge in pixels.
        seed: of the phantoms.
        jobs: processes that draw.
        progress: called with the number of phantoms just drawn, and of all.

    Raises:
        UsageError: a number is out of its range, or there is no place for the cache.
    """
    drawn = (__version__, images, size, seed, f"{BEDSIDE_SHARE:g}")
    folder = cache_folder() / "phantoms" / "_".join(map(str, drawn))
    source, prepared = folder / "source", folder / "prepared"
    if (prepared / "manifest.json").is_file():
        return prepared
    with sole_use(folder, "name another folder for the cache by XDG_CACHE_HOME", wait=True):
        if (prepared / "manifest.json").is_file():
            return prepared
        remove_phantoms(source)
        write_phantoms(
            source,
            images=images,
            seed=seed,
            size=size,
            abnormal_share=ABNORMAL_SHARE,
            anatomy=True,
            bedside_share=BEDSIDE_SHARE,
            readers=1,
            jobs=jobs,
            progress=progress,
        )
        build_dataset(
            source,
            prepared,
            # Phantoms of one build look alike, but no two are of one patient on both sides of the split.
            BuildOptions(labels=("auto",), short_edge=0, allow_duplicates=True, val_ratio=max(0.02, 2 / images)),
            table=source / "truth.csv",
            jobs=jobs,
            force=True,
        )
        shutil.rmtree(source)
    return prepared
