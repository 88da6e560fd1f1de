"""What a codestream's header says, and that a missing end is seen without decoding."""

from __future__ import annotations

import imagecodecs
import numpy as np
import pytest

from cxr_mmdet.dicom.codestream import Codestream, Family, read_codestream

PIXELS = (np.add.outer(np.arange(33) * 70, np.arange(47) * 20) % 4096).astype(np.uint16)
FRAMES = {
    "JPEG lossless": imagecodecs.ljpeg_encode(PIXELS, bitspersample=12),
    "JPEG 12 bit": imagecodecs.jpeg8_encode(PIXELS, bitspersample=12, level=90),
    "JPEG-LS": imagecodecs.jpegls_encode(PIXELS),
    "JPEG 2000": imagecodecs.jpeg2k_encode(PIXELS, level=0, codecformat="J2K", reversible=True, bitspersample=12),
    "JP2": imagecodecs.jpeg2k_encode(PIXELS, level=0, codecformat="JP2", reversible=True, bitspersample=12),
    "HTJ2K": imagecodecs.htj2k_encode(PIXELS, reversible=True),
}
FAMILIES = {
    "JPEG lossless": Family.jpeg_lossless,
    "JPEG 12 bit": Family.jpeg,
    "JPEG-LS": Family.jpeg_ls,
    "JPEG 2000": Family.jpeg2000,
    "JP2": Family.jpeg2000,
    "HTJ2K": Family.htj2k,
}


@pytest.mark.parametrize("kind", FRAMES)
def test_size_and_end(kind: str) -> None:
    frame = bytes(FRAMES[kind])
    stream = read_codestream(frame)
    assert stream == Codestream(FAMILIES[kind], (33, 47), 1, stream.precision)
    assert stream.precision in (12, 16)
    assert read_codestream(frame + b"\0") == stream  # padded to even length
    for length in (len(frame) - 2, len(frame) // 2):
        with pytest.raises(ValueError, match=r"cut off|end inside"):
            read_codestream(frame[:length])
    with pytest.raises(ValueError, match=r"codestream|no JPEG"):
        read_codestream(frame[:12])


def test_noise_is_no_codestream() -> None:
    with pytest.raises(ValueError, match="no JPEG or JPEG 2000 stream"):
        read_codestream(b"noise" * 100)
