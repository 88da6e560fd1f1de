# ruff: noqa: T201 -- a script that reports to whoever runs it
"""Damaged files: an image or a DicomError may come of them, nothing else.

``python tests/dicom/damage.py 5000`` runs the long version; the test suite runs a few through hypothesis.
"""

from __future__ import annotations

import faulthandler
import random
import struct
import sys
import time
import traceback
import warnings
import zlib
from collections import Counter
from io import BytesIO

import cv2
import imagecodecs
import numpy as np
from PIL import Image
from pydicom import Dataset, dcmread
from pydicom.data import get_testdata_file
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import DeflatedExplicitVRLittleEndian, DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian

from cxr_mmdet.dicom.radiograph import read_radiograph
from cxr_mmdet.errors import DicomError

MAX_SECONDS = 5

_STAND_INS = {
    "1.2.840.10008.1.2.4.110": "1.2.840.10008.1.2.4.201",
    "1.2.840.10008.1.2.4.112": "1.2.840.10008.1.2.4.202",
    "1.2.840.10008.1.2.8.1": "1.2.840.10008.1.2.4.50",
}
MAX_PIXELS = 4_000_000

SHIPPED = [
    "CT_small.dcm",
    "JPEG-lossy.dcm",
    "MR_small_RLE.dcm",
    "MR_small_bigendian.dcm",
    "MR_small_implicit.dcm",
    "MR_small_jp2klossless.dcm",
    "MR_small_jpeg_ls_lossless.dcm",
    "SC_rgb_jpeg_dcmtk.dcm",
    "SC_rgb_jls_lossy_line.dcm",
    "SC_rgb_jpeg_gdcm.dcm",
    "SC_rgb_rle.dcm",
    "SC_ybr_full_422_uncompressed.dcm",
    "rtdose_1frame.dcm",
    "test-SR.dcm",
]


def small_files() -> dict[str, bytes]:
    """Undamaged files of every kind the reader knows, each a few kilobytes."""
    files = {name: _content(dcmread(get_testdata_file(name, download=False))) for name in SHIPPED}
    pixels = (np.add.outer(np.arange(40) * 50, np.arange(56) * 30) % 4096).astype(np.uint16)
    grey = (pixels // 16).astype(np.uint8)
    progressive = BytesIO()
    Image.fromarray(grey).save(progressive, "JPEG", progressive=True)
    deflate = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    frames = {
        "1.2.840.10008.1.2.4.55": progressive.getvalue(),
        "1.2.840.10008.1.2.4.110": imagecodecs.jpegxl_encode(pixels, lossless=True, bitspersample=12),
        "1.2.840.10008.1.2.4.112": imagecodecs.jpegxl_encode(pixels, lossless=True),
        "1.2.840.10008.1.2.1.98": pixels.tobytes(),
        "1.2.840.10008.1.2.8.1": deflate.compress(pixels.tobytes()) + deflate.flush(),
        "1.2.840.113619.5.2": None,
        "1.2.840.10008.1.2.4.57": imagecodecs.ljpeg_encode(pixels, bitspersample=12),
        "1.2.840.10008.1.2.4.90": imagecodecs.jpeg2k_encode(pixels, level=0, codecformat="J2K", reversible=True),
        "1.2.840.10008.1.2.4.201": imagecodecs.htj2k_encode(pixels, reversible=True),
    }
    files |= {syntax: _content(_dataset(pixels, syntax, frame)) for syntax, frame in frames.items()}
    # A relative's codestream under a syntax of another, and a file behind the file meta information of another one.
    files["relative"] = _content(_dataset(pixels, "1.2.840.10008.1.2.4.80", frames["1.2.840.10008.1.2.4.57"]))
    plain = _content(_dataset(pixels, ExplicitVRLittleEndian, None))
    files["file in a file"] = plain[: plain.index(b"\x08\0\x16\0")] + files["relative"]
    packed = _dataset(pixels, ExplicitVRLittleEndian, None)
    packed.BitsAllocated, packed.PixelData = 12, bytes(pixels.size * 3 // 2)
    files["packed"] = _content(packed)
    files["enhanced"] = _content(_enhanced(pixels))
    files["plain"] = _content(_dataset(pixels, ExplicitVRLittleEndian, None))
    palette = _dataset((pixels // 16).astype(np.uint8), ExplicitVRLittleEndian, None)
    palette.PhotometricInterpretation, palette.BitsAllocated, palette.BitsStored = "PALETTE COLOR", 8, 8
    for colour in ("Red", "Green", "Blue"):
        setattr(palette, f"{colour}PaletteColorLookupTableDescriptor", [256, 0, 16])
        setattr(palette, f"{colour}PaletteColorLookupTableData", np.arange(256, dtype=np.uint16).tobytes())
    files["palette"] = _content(palette)
    files["deflated"] = _content(_dataset(pixels, DeflatedExplicitVRLittleEndian, None))
    for suffix, image in ((".png", pixels * 16), (".png", grey), (".jpg", grey), (".tif", pixels)):
        files[f"{image.dtype}{suffix}"] = cv2.imencode(suffix, image)[1].tobytes()
    return files


def damage(content: bytes, seed: int) -> bytes:
    """Return ``content`` with one to four injuries."""
    rng = random.Random(seed)
    data = bytearray(content)
    for _ in range(rng.randint(1, 4)):
        rng.choice(_INJURIES)(data, rng)
    return bytes(data)


def outcome(content: bytes) -> str:
    """Return ``image`` or ``refused``; anything else passes through as an exception."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            radiograph = read_radiograph(content, max_pixels=MAX_PIXELS)
    except DicomError as error:
        message = str(error)
    else:
        message = ""
    if message:
        assert message.isprintable(), message
        assert len(message) < 500, message
        return "refused"
    assert radiograph.pixels.shape == radiograph.size_hw
    assert radiograph.pixels.dtype == np.uint8
    return "image"


def _dataset(pixels: np.ndarray, syntax: str, frame: bytes | None) -> Dataset:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.SOPClassUID, dataset.SOPInstanceUID = DigitalXRayImageStorageForPresentation, "1.2.3"
    dataset.PixelPaddingValue = 0
    dataset.ImagerPixelSpacing = [0.2, 0.2]
    dataset.PatientID, dataset.BurnedInAnnotation = "P1", "NO"
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME1"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 12, 11, 0
    dataset.RescaleSlope, dataset.RescaleIntercept = 1, 0
    dataset.WindowCenter, dataset.WindowWidth = [2000, 1000], [4000, 500]
    dataset.WindowCenterWidthExplanation = ["A", "B"]
    dataset.VOILUTFunction = "SIGMOID"
    if syntax == DeflatedExplicitVRLittleEndian:
        lut = Dataset()
        lut.LUTDescriptor, lut.LUTData = [16, 0, 12], np.arange(0, 4096, 256, dtype=np.uint16).tobytes()
        lut["LUTData"].VR = "OW"
        dataset.VOILUTSequence = [lut]
    dataset.PixelData = pixels.tobytes() if frame is None else encapsulate([frame])
    dataset["PixelData"].VR = "OW"
    dataset["PixelData"].is_undefined_length = frame is not None
    return dataset


def _enhanced(pixels: np.ndarray) -> Dataset:
    dataset = _dataset(pixels, ExplicitVRLittleEndian, None)
    window, group = Dataset(), Dataset()
    window.WindowCenter, window.WindowWidth = dataset.WindowCenter, dataset.WindowWidth
    group.FrameVOILUTSequence = [window]
    dataset.SharedFunctionalGroupsSequence = [group]
    return dataset


def _content(dataset: Dataset) -> bytes:
    """Return the file; pydicom refuses to write syntaxes it does not know, so one as long stands in for them."""
    buffer = BytesIO()
    syntax = dataset.file_meta.TransferSyntaxUID if hasattr(dataset, "file_meta") else ""
    if syntax and syntax.is_private:
        dataset.save_as(buffer, implicit_vr=True, little_endian=True, enforce_file_format=True)
        return buffer.getvalue()
    stand_in = _STAND_INS.get(syntax, syntax)
    if syntax:
        dataset.file_meta.TransferSyntaxUID = stand_in
    dataset.save_as(buffer, enforce_file_format=bool(syntax))
    return buffer.getvalue().replace(*(f"{each:\0<22}".encode() for each in (stand_in, syntax)), 1)


def _place(data: bytearray, rng: random.Random) -> int:
    """A place to hurt, half of the time in the header, where it hurts more."""
    return rng.randrange(max(1, min(len(data), 1500 if rng.random() < 0.5 else len(data))))


def _flip(data: bytearray, rng: random.Random) -> None:
    for _ in range(rng.choice((1, 1, 3, 20))):
        if data:
            data[_place(data, rng)] ^= 1 << rng.randrange(8)


def _overwrite(data: bytearray, rng: random.Random) -> None:
    place, length = _place(data, rng), rng.choice((1, 2, 4, 8, 64))
    filler = rng.choice((b"\x00", b"\xff", b"\x7f", b"0", b"\\", b"-", None))
    data[place : place + length] = rng.randbytes(length) if filler is None else filler * length


def _cut_end(data: bytearray, rng: random.Random) -> None:
    del data[_place(data, rng) :]


def _cut_out(data: bytearray, rng: random.Random) -> None:
    place = _place(data, rng)
    del data[place : place + rng.choice((1, 2, 5, 50, 1000))]


def _insert(data: bytearray, rng: random.Random) -> None:
    place = _place(data, rng)
    data[place:place] = rng.randbytes(rng.choice((1, 2, 8, 100)))


def _swap(data: bytearray, rng: random.Random) -> None:
    length = rng.choice((1, 4, 30))
    one, other = sorted((_place(data, rng), _place(data, rng)))
    if one + length <= other:
        data[one : one + length], data[other : other + length] = (
            data[other : other + length],
            data[one : one + length],
        )


_TAGS = [(0x0028, element) for element in (2, 3, 4, 6, 8, 0x10, 0x11, 0x100, 0x101, 0x102, 0x103, 0x120, 0x1050)]
_TAGS += [(0x0028, element) for element in (0x1051, 0x1052, 0x1053, 0x1056, 0x3010, 0x3002)] + [(0x7FE0, 0x10)]
_TAGS += [(0x0002, 0x10), (0x0002, 0x0), (0x0008, 0x16)]


def _hurt_element(data: bytearray, rng: random.Random) -> None:
    """Give an attribute that matters an absurd value, length or VR."""
    place = data.find(struct.pack("<HH", *rng.choice(_TAGS)))
    if place < 0 or place + 12 > len(data):
        return
    what = rng.randrange(3)
    if what == 0:
        data[place + 8 : place + 10] = rng.choice((b"\0\0", b"\xff\xff", b"\x01\0", b"\xff\x7f", rng.randbytes(2)))
    elif what == 1:
        data[place + 6 : place + 8] = rng.choice((b"\0\0", b"\xff\xff", b"\xfe\xff", rng.randbytes(2)))
    else:
        data[place + 4 : place + 6] = rng.choice((b"SQ", b"UN", b"DS", b"US", b"OB", b"UT", b"IS", b"PN", b"??"))


_INJURIES = [_flip, _overwrite, _cut_end, _cut_out, _insert, _swap, _hurt_element, _hurt_element]


def main(count: int, first_seed: int = 0) -> int:
    """Damage files ``count`` times, print what came of it, and return the number of violations."""
    import resource

    faulthandler.enable()
    files = list(small_files().items())
    outcomes: Counter[str] = Counter()
    slowest = 0.0
    for seed in range(first_seed, first_seed + count):
        name, content = files[seed % len(files)]
        faulthandler.dump_traceback_later(MAX_SECONDS * 4, exit=True)
        print(seed, file=sys.stderr, flush=True)
        start = time.perf_counter()
        try:
            what = outcome(damage(content, seed))
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            what = f"VIOLATION {type(error).__name__}"
            print(
                f"seed {seed} ({name}): {type(error).__name__}: {error} {traceback.extract_tb(error.__traceback__)[-1]}"
            )
        faulthandler.cancel_dump_traceback_later()
        seconds = time.perf_counter() - start
        slowest = max(slowest, seconds)
        if seconds > MAX_SECONDS:
            what = "VIOLATION slow"
            print(f"seed {seed} ({name}): {seconds:.1f} s")
        outcomes[what] += 1
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{count} files: {dict(outcomes)}, slowest {slowest:.2f} s, peak memory {peak:.0f} MiB")
    return sum(number for what, number in outcomes.items() if what.startswith("VIOLATION"))


if __name__ == "__main__":
    sys.exit(min(1, main(*(int(argument) for argument in sys.argv[1:]))))
