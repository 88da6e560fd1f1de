"""Hashes of what a training was given, so that a benchmark does not take runs of other data or weights for its own."""

from __future__ import annotations

import hashlib
import json
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cxr_mmdet.engine.config import annotated_parts
from cxr_mmdet.engine.phantom_start import resolve_start
from cxr_mmdet.errors import UsageError
from cxr_mmdet.structures.coco import read_coco

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from mmengine.config import Config

NAMES = {"data": "data", "start": "starting weights", "recipe": "settings"}
"""Kinds of inputs, and what messages call them."""

RANDOM = "random"
"""Stands for the hash of the starting weights where there are none."""

_SHOWN = 12


def recipe_settings(config: Config) -> dict[str, Any]:
    """Return a config's settings, wherever its data lie, its run writes and its weights come from."""
    settings = {key: value for key, value in config.to_dict().items() if key not in ("load_from", "work_dir")}
    for part in annotated_parts(settings):
        part["data_root"] = None
    return settings


def hash_settings(settings: Any) -> str:
    """Return the hash of plain settings."""
    return _digest([json.dumps(settings, sort_keys=True, default=str).encode()])


def hash_start(config: Config, contestant: str) -> str:
    """Return the hash of the starting weights' content; of a URL, of the address; :data:`RANDOM` without any.

    Raises:
        UsageError: there is no such file.
        CheckpointError: no phantom weights belong to the config's backbone.
    """
    config = config.copy()
    resolve_start(config)
    start = config.get("load_from")
    if start is None:
        return RANDOM
    if "://" in start:
        return _digest([start.encode()])
    path = Path(start).expanduser()
    if not path.is_file():
        raise UsageError(f"{contestant}: {start} is no file; expected weights, as +from:FILE or +from:phantom.")
    return _file_digest(path.resolve())


def hash_data(data_root: Path, ann_files: Iterable[str]) -> str:
    """Return the hash of annotation files and of the images that they name; images that are missing do not count."""
    parts = []
    for name in ann_files:
        path = data_root / name
        images = (data_root / "images" / image["file_name"] for image in read_coco(path)["images"])
        files = [path, *(image for image in images if image.is_file())]
        parts += [_file_digest(file.resolve()).encode() for file in files]
    return _digest(parts)


def check_inputs(run_file: Path, known: Mapping[str, str], wanted: Mapping[str, str]) -> None:
    """Refuse a finished run that was given something else.

    Args:
        run_file: of the run.
        known: hashes of what it was given, by the kinds of :data:`NAMES`; empty for runs of versions before 0.5.
        wanted: the same of what is asked for now.

    Raises:
        UsageError: they differ.
    """
    remedy = f"name another folder by --out, or remove {run_file.parent} to train it again."
    if not known:
        raise UsageError(f"{run_file}: an earlier version trained this, and did not note on what; {remedy}")
    for kind, title in NAMES.items():
        if known.get(kind) != wanted[kind]:
            raise UsageError(
                f"{run_file}: was trained with other {title} ({_short(known.get(kind))}) than asked for now "
                f"({_short(wanted[kind])}); {remedy}"
            )


def _short(digest: str | None) -> str:
    return "unknown" if digest is None else digest[:_SHOWN]


def _digest(parts: Iterable[bytes]) -> str:
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


@cache
def _known_digest(path: Path, size: int, changed_ns: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _file_digest(path: Path) -> str:
    """Return the hash of a file's content, read once for as long as size and time of change stay."""
    stat = path.stat()
    return _known_digest(path, stat.st_size, stat.st_mtime_ns)
