"""Look-up tables inside a DICOM file: Modality LUT and VOI LUT (PS3.3 C.11.1.1, C.11.2.1.1)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from cxr_mmdet.dicom.attributes import numbers, value_of

if TYPE_CHECKING:
    from pydicom import Dataset


@dataclass(frozen=True)
class Lut:
    """A look-up table of the file (PS3.3 C.11.1.1, C.11.2.1.1); ``first`` is the input that hits entry 0."""

    first: float
    entries: np.ndarray
    bits: int

    def look_up(self, values: np.ndarray) -> np.ndarray:
        """Return the entry of each value; values beyond the table take its first or last entry."""
        first = self.first
        if first > 0x7FFF and values.min() < 0:
            first -= 0x10000  # an SS descriptor written as US
        place = np.clip(np.rint(values) - first, 0, len(self.entries) - 1)
        return self.entries[place.astype(np.int64)]

    def shade(self, values: np.ndarray) -> np.ndarray:
        """Return the entry of each value on a scale from 0 to 1."""
        return self.look_up(values) / (2**self.bits - 1)


def read_lut(item: Dataset, dataset: Dataset) -> Lut | None:
    """Return the table in a sequence item of ``dataset``, or None where descriptor or data are missing."""
    descriptor = numbers(item, "LUTDescriptor")
    entries = _lut_entries(value_of(item, "LUTData"), dataset, int(descriptor[0]) if descriptor else 0)
    if len(descriptor) != 3 or entries is None:
        return None
    needed = max(1, math.ceil(math.log2(float(entries.max()) + 1)))
    stated = int(descriptor[2])
    # Some writers state fewer bits than their entries have; more would wrap around or clip.
    bits = stated if 8 <= stated <= 16 and stated >= needed else max(needed, 8)
    return Lut(descriptor[1], entries.astype(np.float64), bits)


def _lut_entries(data: Any, dataset: Dataset, stated_count: int) -> np.ndarray | None:
    count = stated_count % 0x10000 or 0x10000
    if data is None:
        return None
    if isinstance(data, (bytes, bytearray)):
        little = getattr(dataset, "original_encoding", (None, True))[1]
        is_words = len(data) >= 2 * count
        words: Any = ("<u2" if little is not False else ">u2") if is_words else np.uint8
        entries = np.frombuffer(data[: len(data) // 2 * 2] if is_words else data, dtype=words)
    else:
        entries = np.atleast_1d(np.asarray(data)).astype(np.int64) & 0xFFFF
    return entries[:count] if entries.size else None
