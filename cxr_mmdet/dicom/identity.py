"""Images by what they show: hashes that name a radiograph without naming a patient."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def hash_content(content: bytes) -> str:
    """Return the SHA-256 of a file."""
    return hashlib.sha256(content).hexdigest()


def hash_pixels(pixels: NDArray[np.uint8]) -> str:
    """Return the SHA-256 of a radiograph's size and grey levels, as :func:`read_radiograph` gives them.

    It outlives what changes a file but not its picture: other encodings, and headers with the patient taken out.
    """
    height, width = pixels.shape
    digest = hashlib.sha256(f"{height} {width} ".encode())
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.hexdigest()
