"""What is held of a radiograph's header: enough for reports, bounded whatever the file holds."""

from __future__ import annotations

import io
import pickle

import pydicom
import pytest
from serving_builders import phantom_dicom

from cxr_mmdet.web import decoding
from cxr_mmdet.web.decoding import MAX_HEADER_BYTES, _decode

MIB = 1 << 20


def with_attributes(change):
    dataset = pydicom.dcmread(io.BytesIO(phantom_dicom()))
    change(dataset)
    file = io.BytesIO()
    dataset.save_as(file, enforce_file_format=True)
    return file.getvalue()


def private(dataset):
    dataset.private_block(0x0099, "ACME", create=True).add_new(1, "OB", bytes(20 * MIB))


def public(dataset):
    dataset.add_new("ICCProfile", "OB", bytes(20 * MIB))


def many(dataset):
    for number in range(400):
        dataset.add_new((0x0040, 0xF000 + number), "OB", bytes(50_000))


def nested(dataset):
    item = pydicom.Dataset()
    item.add_new("ICCProfile", "OB", bytes(20 * MIB))
    dataset.add_new("RequestAttributesSequence", "SQ", [item])


def overlay(dataset):
    dataset.add_new((0x6000, 0x3000), "OW", bytes(20 * MIB))


@pytest.mark.parametrize("change", [private, public, many, nested, overlay])
def test_what_is_held_is_bounded(change):
    content = with_attributes(change)
    decoded = _decode(content, "a.dicom", 10**6)
    held = len(pickle.dumps(decoded.header))
    assert held < 2 * MAX_HEADER_BYTES
    assert decoded.header.PatientID
    assert decoded.nbytes >= decoded.viewable.nbytes + decoded.radiograph.pixels.nbytes + 1000


def test_neither_pixels_nor_the_file_are_held():
    content = with_attributes(lambda dataset: setattr(dataset, "PatientName", "Müller^Jörg"))
    decoded = _decode(content, "a.dicom", 10**6)
    assert "PixelData" not in decoded.header
    assert len(pickle.dumps(decoded.header)) < 20_000 < len(content)
    assert str(decoded.header.PatientName) == "Müller^Jörg"
    assert decoded.header.file_meta.TransferSyntaxUID
    assert decoding.MAX_ATTRIBUTE_BYTES >= 2 * 65536 * 2
