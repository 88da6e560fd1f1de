"""Look-up tables inside a DICOM file: Modality LUT and VOI LUT (PS3.3 C.11.1.1, C.11.2.1.1)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from cxr_mmdet.dicom.attributes import numbers, value_of

if TYPE_CHECKING:
    from pydicom import Dataset

_SURPLUS_BITS = 2


@dataclass(frozen=True)
class Lut:
    """A look-up table of the file (PS3.3 C.11.1.1, C.11.2.1.1); ``first`` is the input that hits entry 0.

    ``bits`` are those of white, ``stated_bits`` what the descriptor says.
    """

    first: float
    entries: np.ndarray
    bits: int
    stated_bits: int

    @property
    def overstates(self) -> bool:
        """Whether the file states more bits than its entries use, so that the lightest entry would be a dark grey."""
        return self.stated_bits > self.bits

    @property
    def is_monotone(self) -> bool:
        """Whether higher inputs never turn back, so that what the mean of inputs hits lies between what they hit."""
        steps = np.diff(self.entries)
        return bool((steps >= 0).all() or (steps <= 0).all())

    def look_up(self, values: np.ndarray) -> np.ndarray:
        """Return the entry of each value; values beyond the table take its first or last entry."""
        first = self.first
        # Writers mix up SS and US in the descriptor (PS3.3 C.11.1.1.1).
        if first > 0x7FFF and first > values.max() and values.min() < 0:
            first -= 0x10000
        elif first < 0 and values.min() >= 0 and first + 0x10000 <= values.max():
            first += 0x10000
        place = np.clip(np.rint(values) - first, 0, len(self.entries) - 1)
        return self.entries[place.astype(np.int64)]

    def shade(self, values: np.ndarray) -> np.ndarray:
        """Return the entry of each value on a scale from 0 to 1."""
        return self.look_up(values) / (2**self.bits - 1)


def read_lut(item: Dataset, dataset: Dataset, descriptor: str = "LUTDescriptor", data: str = "LUTData") -> Lut | None:
    """Return the table in a sequence item of ``dataset``, or None where descriptor or data are missing.

    Args:
        item: holds the two attributes.
        dataset: knows the byte order of the file.
        descriptor: keyword of the number of entries, first input and bits.
        data: keyword of the entries.
    """
    stated = numbers(item, descriptor)
    value = value_of(item, data)
    entries = None if value is None else _lut_entries(value, item[data].VR, dataset, int(stated[0]) if stated else 0)
    if len(stated) != 3 or entries is None:
        return None
    needed = max(8, math.ceil(math.log2(float(entries.max()) + 1)))
    bits = int(stated[2])
    # Fewer bits than the entries have would wrap around or clip. With two bits more than they need, not one entry is
    # lighter than a quarter of white: the writer gave the bits of the words, not of the entries.
    if not 8 <= bits <= 16 or not needed <= bits < needed + _SURPLUS_BITS:
        return Lut(stated[1], entries.astype(np.float64), needed, bits)
    return Lut(stated[1], entries.astype(np.float64), bits, bits)


def _lut_entries(data: Any, vr: str, dataset: Dataset, stated_count: int) -> np.ndarray | None:
    count = stated_count % 0x10000 or 0x10000
    if isinstance(data, (bytes, bytearray)):
        little = getattr(dataset, "original_encoding", (None, True))[1]
        words = np.frombuffer(data[: len(data) // 2 * 2], dtype="<u2" if little is not False else ">u2")
        # Entries of 8 bits are packed in words, the first in the lower half (PS3.5 8.1.1), or they are bytes.
        # Other lengths are tables whose descriptor counts wrongly.
        is_packed = len(data) in (count, count + 1)
        in_bytes = vr == "OB" or len(data) % 2 != 0
        entries = words
        if is_packed:
            entries = np.frombuffer(data if in_bytes else words.astype("<u2").tobytes(), np.uint8)
    else:
        entries = np.atleast_1d(np.asarray(data)).astype(np.int64) & 0xFFFF
    return entries[:count] if entries.size else None
