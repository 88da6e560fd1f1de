"""Whatever happens to a file on its way, an image or a DicomError comes of it; damage.py runs the long version."""

from __future__ import annotations

import pytest
from damage import damage, outcome, small_files
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.data import get_testdata_file

FILES = small_files()


@pytest.mark.parametrize("name", FILES)
def test_undamaged_files_are_shown(name: str) -> None:
    assert outcome(FILES[name]) == ("refused" if name == "test-SR.dcm" else "image")


@settings(max_examples=400, suppress_health_check=[HealthCheck.too_slow])
@given(name=st.sampled_from(sorted(FILES)), seed=st.integers(0, 2**32))
def test_damaged_files_are_shown_or_refused(name: str, seed: int) -> None:
    assert outcome(damage(FILES[name], seed)) in ("image", "refused")


@settings(max_examples=100)
@given(content=st.binary(max_size=300), preamble=st.booleans())
def test_noise_is_refused(content: bytes, preamble: bool) -> None:
    assert outcome((b"\0" * 128 + b"DICM" if preamble else b"") + content) == "refused"


def test_found_by_damage_unknown_vr_of_a_needed_attribute() -> None:
    content = FILES["plain"].replace(b"\x28\x00\x02\x00US", b"\x28\x00\x02\x00U[")
    assert outcome(content) in ("image", "refused")


@pytest.mark.parametrize(
    "tag", [b"\x28\x00\x02\x00US", b"\x10\x00\x20\x00LO", b"\x28\x00\x01\x03CS", b"\x28\x00\x50\x10DS"]
)
def test_found_by_damage_unknown_vr_of_an_empty_attribute(tag: bytes) -> None:
    place = FILES["plain"].index(tag)
    length = int.from_bytes(FILES["plain"][place + 6 : place + 8], "little")
    damaged = FILES["plain"][: place + 4] + b"S@\0\0" + FILES["plain"][place + 8 + length :]
    assert outcome(damaged) == "image"


def test_found_by_damage_colour_of_8_bits_in_16() -> None:
    from pydicom import dcmread

    from cxr_mmdet.dicom.radiograph import read_radiograph

    dataset = dcmread(get_testdata_file("SC_rgb_16bit.dcm", download=False))
    dataset.BitsStored, dataset.HighBit = 8, 7
    assert read_radiograph(dataset).pixels.dtype == "uint8"
