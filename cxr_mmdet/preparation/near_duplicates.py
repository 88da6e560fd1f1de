"""Near-duplicates among prepared images, by perceptual hash: one radiograph filed twice must not cross the split."""

from __future__ import annotations

import json
import zlib
from contextlib import closing, suppress
from typing import TYPE_CHECKING, NamedTuple

import cv2
import imagehash
import numpy as np
from PIL import Image

from cxr_mmdet.errors import DatasetError
from cxr_mmdet.files import write_json
from cxr_mmdet.parallel import map_unordered

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

FINGERPRINTS_NAME = "fingerprints.json"
HASH_SIZE = 16
"""16 x 16 bits. Of 64 bits, the usual size, distinct chest radiographs share too many: one resembles the other."""
MAX_DISTANCE = 20
"""Bits. The same radiograph compressed again, halved or brightened differs by up to 20 bits, two radiographs of one
patient by 54 and more, those of two patients by about 118 (279 radiographs from many hospitals)."""
_SIDE = 4 * HASH_SIZE
_ROWS_AT_ONCE = 1024


class NearDuplicates(NamedTuple):
    """Two images that are nearly the same, the first name first, and in how many bits their hashes differ."""

    first: str
    second: str
    distance: int


def find_near_duplicates(fingerprints: Mapping[str, str], max_distance: int = MAX_DISTANCE) -> list[NearDuplicates]:
    """Return all pairs of near-identical images, the most alike first.

    Args:
        fingerprints: image id → hexadecimal hash, from :func:`fingerprint_images`.
        max_distance: in how many bits near-identical images may differ.
    """
    names = sorted(fingerprints)
    if len(names) < 2:
        return []
    signs = np.stack([_bits(fingerprints[name]) for name in names]).astype(np.float32) * 2 - 1
    near_duplicates = []
    for start in range(0, len(names), _ROWS_AT_ONCE):
        rows = signs[start : start + _ROWS_AT_ONCE]
        # Equal bits minus different ones.
        distance = (signs.shape[1] - rows @ signs[start:].T) / 2
        for row, column in np.argwhere(np.triu(distance <= max_distance, 1)).tolist():
            near_duplicates.append(
                NearDuplicates(names[start + row], names[start + column], int(distance[row, column]))
            )
    return sorted(near_duplicates, key=lambda pair: (pair.distance, pair.first, pair.second))


def pairs_across(near_duplicates: Sequence[NearDuplicates], val: frozenset[str] | set[str]) -> list[NearDuplicates]:
    """Return the pairs of which one image trains and the other validates."""
    return [pair for pair in near_duplicates if (pair.first in val) != (pair.second in val)]


def fingerprint_images(images: Mapping[str, Path], cache: Path, *, jobs: int | None = 1) -> dict[str, str]:
    """Return the perceptual hash of each image, image id → hexadecimal; hashes of unchanged images are kept.

    Args:
        images: image id → file.
        cache: JSON file of earlier hashes; written anew.
        jobs: worker processes; None leaves it to a ``worker_pool`` around the call.

    Raises:
        DatasetError: an image is missing or cannot be decoded.
    """
    known: dict[str, list[str]] = {}
    with suppress(OSError, ValueError):
        known = json.loads(cache.read_text(encoding="utf-8"))
    tasks = [(name, path, known.get(name)) for name, path in images.items()]
    with closing(map_unordered(_fingerprint, tasks, jobs=jobs, batch_size=32)) as results:
        entries = dict(sorted(results))
    write_json(cache, entries, indent=0)
    return {name: entry[1] for name, entry in entries.items()}


def _fingerprint(name: str, path: Path, known: list[str] | None) -> tuple[str, list[str]]:
    """Return the image's name, and the checksum of its file with the hash of what it shows."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read ({error.strerror}); prepare the data again.") from None
    checksum = f"{zlib.crc32(content):08x}"
    if known is not None and len(known) == 2 and known[0] == checksum:
        return name, known
    pixels = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_GRAYSCALE) if content else None
    if pixels is None:
        raise DatasetError(f"{path}: is not an image that OpenCV can decode; prepare the data again.")
    # Averaged down first, so that the hash is of areas, not of the few pixels that a resize looks at.
    small = cv2.resize(pixels, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)
    return name, [checksum, str(imagehash.phash(Image.fromarray(small), hash_size=HASH_SIZE))]


def _bits(hexadecimal: str) -> NDArray[np.uint8]:
    return np.unpackbits(np.frombuffer(bytes.fromhex(hexadecimal), np.uint8))
