"""Prepared folder: its files, its manifest and its list of failures."""

from __future__ import annotations

import hashlib
import platform
from dataclasses import asdict
from importlib import metadata
from typing import TYPE_CHECKING, Any

from cxr_mmdet.errors import UsageError
from cxr_mmdet.files import sole_use, write_csv
from cxr_mmdet.preparation.images import prepare_images
from cxr_mmdet.structures.radiograph_files import find_originals, visible_files

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence
    from pathlib import Path

    from cxr_mmdet.preparation.images import Failure, PreparedImages
    from cxr_mmdet.preparation.label_sets import LabelSetCounts, SplitCounts


FAILURES_NAME = "failures.csv"


def write_failures(path: Path, failures: Sequence[Failure]) -> None:
    """Write one row a failure; without any, an earlier run's file is removed."""
    if not failures:
        path.unlink(missing_ok=True)
        return
    write_csv(path, ["image_id", "reason"], ([failure.image_id, failure.reason] for failure in failures))


MANIFEST_NAME = "manifest.json"

PACKAGES = (
    "cxr-mmdet",
    "imagecodecs",
    "imagehash",
    "iterative-stratification",
    "numpy",
    "opencv-python",
    "pandas",
    "pillow",
    "pydicom",
    "pylibjpeg-openjpeg",
)
"""Packages that the prepared images and boxes depend on."""


def describe_inputs(table: Path, sources: Mapping[str, Path]) -> dict[str, Any]:
    """Return what tells these inputs from others, without their place on this machine.

    The radiographs are told apart by name and size: hashing the contents of a whole data set would read it once more.
    """
    listing = "".join(f"{path.name}\0{path.stat().st_size}\n" for _, path in sorted(sources.items()))
    return {
        "table": table.name,
        "table_sha256": _digest(table, set(sources.values())),
        "radiographs": len(sources),
        "radiographs_sha256_of_names_and_sizes": hashlib.sha256(listing.encode()).hexdigest(),
    }


def _digest(table: Path, images: Collection[Path]) -> str:
    """Return a hash of the annotations: of a tree, of the names and contents of all its files but its images."""
    if table.is_file():
        return hashlib.sha256(table.read_bytes()).hexdigest()
    digest = hashlib.sha256()
    for path in visible_files(table):
        if path not in images:
            digest.update(f"{path.relative_to(table).as_posix()}\0".encode() + path.read_bytes())
    return digest.hexdigest()


def describe_packages() -> dict[str, str | None]:
    """Return the versions of Python and of the packages that matter; None where one is not installed by that name."""
    versions: dict[str, str | None] = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    return versions


def describe_label_set(counts: LabelSetCounts) -> dict[str, Any]:
    """Return the classes of a label set and what its splits hold; what is unknown only where something is."""
    return {
        "labels": list(counts.label_set.labels),
        "minority": list(counts.label_set.minority),
        "merged": {label: list(classes) for label, classes in counts.label_set.merged.items()},
        "train": describe_split(counts.train, partial=counts.is_partial),
        "train_augmented": describe_split(counts.train_augmented, partial=counts.is_partial),
        "val": describe_split(counts.val, partial=counts.is_partial),
    }


def describe_split(counts: SplitCounts, *, partial: bool) -> dict[str, Any]:
    """Return the counts of a split; ``partial`` adds the images on which a class is absent, and those on which unknown.

    Images that are ``unknown`` hold no box, but are not known to be normal.
    """
    entry = asdict(counts)
    for name, each in entry["by_class"].items():
        if partial:
            each["absent"] = counts.absent(name)
        else:
            del each["unknown"]
    if not partial:
        del entry["unknown"]
    return entry


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

    Written beside them: ``images.json``, what each image was made from and what was odd about it, and, when
    radiographs failed, ``failures.csv``.

    Args:
        src: holds the radiographs, in ``train/`` or itself.
        out: a new folder, or one of an earlier run, which is then brought up to date.
        short_edge: the images' shorter side at most, in pixels; 0 keeps the full size.
        reduced_jpeg2000: decode JPEG 2000 no larger than ``short_edge`` needs: faster, not to the same pixels.
        jobs: worker processes; None leaves it to a ``worker_pool`` around the call.
        progress: called with the number of radiographs just dealt with, and of all.

    Raises:
        UsageError: ``out`` is a file, in use, holds a finished build, or its images would replace their sources.
        DatasetError: there are no radiographs, or an image cannot be written.
    """
    _check_out(out)
    sources = find_originals(src)
    if any(path.parent.resolve() == (out / IMAGES).resolve() for path in sources.values()):
        raise UsageError(
            f"{out}: its images would replace the radiographs that they are made from; name another folder."
        )
    with sole_use(out, "name another folder"):
        _check_out(out)  # a build may have ended meanwhile
        prepared = prepare_images(
            sources,
            out / IMAGES,
            short_edge=short_edge,
            reduced_jpeg2000=reduced_jpeg2000,
            jobs=jobs,
            progress=progress,
        )
        write_failures(out / FAILURES_NAME, prepared.failures)
    return prepared


def _check_out(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out}: is a file; expected a folder to write to.")
    if (out / MANIFEST_NAME).exists():
        raise UsageError(f"{out}: holds a finished build; build --force brings it up to date, or name another folder.")
