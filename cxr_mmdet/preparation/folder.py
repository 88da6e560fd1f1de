"""A folder of radiographs → the pictures of a prepared folder, without a readers' table: its first half."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cxr_mmdet.errors import UsageError
from cxr_mmdet.preparation.failures import FAILURES_NAME, write_failures
from cxr_mmdet.preparation.images import find_radiographs, prepare_images
from cxr_mmdet.preparation.manifest import MANIFEST_NAME

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from cxr_mmdet.preparation.images import PreparedImages

IMAGES = "images"


def prepare_folder(
    src: Path,
    out: Path,
    *,
    short_edge: int = 1024,
    reduced_jpeg2000: bool = False,
    jobs: int | None = 1,
    progress: Callable[[int, int], None] | None = None,
) -> PreparedImages:
    """Render the radiographs of ``src`` to ``out/images``, as ``build_dataset`` would, which then finds them done.

    Written beside them: ``images.json``, what each picture was made from and what was odd about it, and, when
    radiographs failed, ``failures.csv``.

    Args:
        src: holds the radiographs, in ``train/`` or itself.
        out: a new folder, or one of an earlier run, which is then brought up to date.
        short_edge: the pictures' shorter side at most, in pixels; 0 keeps the full size.
        reduced_jpeg2000: decode JPEG 2000 no larger than ``short_edge`` needs: faster, not to the same pixels.
        jobs: worker processes; None leaves it to a ``worker_pool`` around the call.
        progress: called with the number of radiographs just dealt with, and of all.

    Raises:
        UsageError: ``out`` is a file, holds a finished build, or its pictures would replace their sources.
        DatasetError: there are no radiographs, or a picture cannot be written.
    """
    _check_out(out)
    sources = find_radiographs(src)
    if any(path.parent.resolve() == (out / IMAGES).resolve() for path in sources.values()):
        raise UsageError(f"{out}: its pictures would replace the radiographs they are made of; name another folder.")
    prepared = prepare_images(
        sources,
        out / IMAGES,
        short_edge=short_edge,
        reduced_jpeg2000=reduced_jpeg2000,
        jobs=jobs,
        progress=(lambda done: progress(done, len(sources))) if progress else None,
    )
    write_failures(out / FAILURES_NAME, prepared.failures)
    return prepared


def _check_out(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out}: is a file; expected a folder to write to.")
    if (out / MANIFEST_NAME).exists():
        raise UsageError(f"{out}: holds a finished build; build --force brings it up to date, or name another folder.")
