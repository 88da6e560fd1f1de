"""The decoders of each compressed transfer syntax on the same image: why the first one is tried first."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import imagecodecs
import numpy as np
from pydicom import Dataset, uid
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate

from benchmarks.harness import Alternative, Comparison, compare
from cxr_mmdet.dicom.codecs import PREFERENCE, decoder_of
from cxr_mmdet.phantom import plan_case, render_phantom
from cxr_mmdet.structures.labels import LABELS_14

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.harness import Progress

BITS = {uid.JPEGBaseline8Bit: 8}
"""All others hold 12 bits."""

ENCODE: dict[uid.UID, Callable[[np.ndarray], Any]] = {
    uid.JPEGBaseline8Bit: partial(imagecodecs.jpeg8_encode, level=95),
    uid.JPEGExtended12Bit: partial(imagecodecs.jpeg8_encode, level=95, bitspersample=12),
    uid.JPEGLosslessSV1: partial(imagecodecs.jpeg8_encode, bitspersample=12, lossless=True),
    uid.JPEGLSLossless: imagecodecs.jpegls_encode,
    uid.JPEG2000Lossless: partial(
        imagecodecs.jpeg2k_encode, level=0, codecformat="J2K", reversible=True, bitspersample=12
    ),
    uid.HTJ2KLossless: partial(imagecodecs.htj2k_encode, reversible=True),
}
"""One syntax of each family; RLE has one decoder."""


def benchmark_codecs(*, size: int = 2500, rounds: int = 3, progress: Progress | None = None) -> list[Comparison]:
    """Time every installed decoder of each syntax on one phantom, in the order in which they are tried.

    Args:
        size: the shorter side of the phantom in pixels.
        rounds: timed rounds of each syntax.
        progress: called with the rounds just done and all of one syntax.
    """
    image = np.clip(render_phantom(plan_case(0, 0, abnormal_share=1, labels=LABELS_14), size=size).image, 0, 1)
    return [_compare(syntax, image, rounds, progress) for syntax in ENCODE]


def _compare(syntax: uid.UID, image: np.ndarray, rounds: int, progress: Progress | None) -> Comparison:
    dataset = _encoded(syntax, image)
    decoder = decoder_of(syntax)
    plugins = [name for name in PREFERENCE[syntax] if name in decoder.available_plugins]

    def decode(plugin: str, _: int) -> None:
        decoder.as_array(dataset, index=0, decoding_plugin=plugin)

    able = [plugin for plugin in plugins if _is_able(partial(decode, plugin))]
    return compare(
        f"Decoding {syntax.keyword}",
        [Alternative(plugin, partial(decode, plugin)) for plugin in able],
        item="image",
        items_per_round=1,
        rounds=rounds,
        progress=progress,
    )


def _is_able(decode: Callable[[int], None]) -> bool:
    """Return whether a decoder that names the syntax can decode it: some know 8 bits only."""
    try:
        decode(0)
    except Exception:  # each library raises its own
        return False
    return True


def _encoded(syntax: uid.UID, image: np.ndarray) -> Dataset:
    bits = BITS.get(syntax, 12)
    stored = np.rint(image * (2**bits - 1)).astype(np.uint8 if bits == 8 else np.uint16)
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.Rows, dataset.Columns = stored.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PixelRepresentation = 1, "MONOCHROME2", 0
    dataset.BitsAllocated = stored.dtype.itemsize * 8
    dataset.BitsStored, dataset.HighBit = bits, bits - 1
    dataset.PixelData = encapsulate([ENCODE[syntax](stored)])
    return dataset
