"""What is held of a radiograph's header: enough for reports, bounded whatever the file holds."""

from __future__ import annotations

import io
import pickle

import pydicom
import pytest
from detectors import write_image
from serving_builders import phantom_dicom, predictor

from cxr_mmdet.dicom.source import MAX_ATTRIBUTE_BYTES, MAX_HEADER_BYTES
from cxr_mmdet.inference.candidates import find_candidates
from cxr_mmdet.web.cases import Case
from cxr_mmdet.web.decoding import _decode
from cxr_mmdet.web.exports import Format, export, formats_of

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


def meta(dataset):
    dataset.file_meta.PrivateInformationCreatorUID = "1.2.3"
    dataset.file_meta.PrivateInformation = bytes(20 * MIB)


@pytest.mark.parametrize("change", [private, public, many, nested, overlay, meta])
def test_what_is_held_is_bounded(change):
    content = with_attributes(change)
    decoded = _decode(content, "a.dicom", 10**6)
    held = len(pickle.dumps(decoded.radiograph.header))
    assert held < 2 * MAX_HEADER_BYTES
    assert decoded.radiograph.header.PatientID
    assert decoded.nbytes >= decoded.viewable.nbytes + decoded.radiograph.pixels.nbytes + 1000


def test_neither_pixels_nor_the_file_are_held():
    content = with_attributes(lambda dataset: setattr(dataset, "PatientName", "Müller^Jörg"))
    decoded = _decode(content, "a.dicom", 10**6)
    assert "PixelData" not in decoded.radiograph.header
    assert len(pickle.dumps(decoded.radiograph.header)) < 20_000 < len(content)
    assert str(decoded.radiograph.header.PatientName) == "Müller^Jörg"
    assert decoded.radiograph.header.file_meta.TransferSyntaxUID
    assert MAX_ATTRIBUTE_BYTES >= 2 * 65536 * 2


def test_an_upload_is_parsed_and_decoded_once_up_to_its_last_export(reads):
    content, model = phantom_dicom(), predictor()
    reads.clear()
    decoded = _decode(content, "a.dicom", 10**6)
    case = Case("a.dicom", decoded, find_candidates(model, decoded.radiograph), (0.0, 0.0))
    decoded.viewable.render()
    kinds = formats_of(case)
    assert {Format.sr, Format.sc, Format.pr} <= set(kinds)
    for kind in kinds:
        export(case, kind)
    assert reads == {"parsed": 1, "decoded": 1}


def test_an_uploaded_image_is_decoded_once(reads, tmp_path):
    content = write_image(tmp_path / "a.png", 30, 20).read_bytes()
    decoded = _decode(content, "a.png", 10**6)
    assert decoded.radiograph.header is None
    assert reads == {"decoded": 1}
