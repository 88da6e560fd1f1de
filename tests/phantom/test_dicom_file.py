"""Every way a phantom may be encoded shows the same image, by pydicom's pipeline and by ours."""

import dataclasses

import numpy as np
import pydicom
import pytest
from pydicom.pixels import apply_modality_lut, apply_voi_lut
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEG2000Lossless, RLELossless

from cxr_mmdet.dicom.radiograph import read_radiograph
from cxr_mmdet.phantom import plan_case, render_phantom
from cxr_mmdet.phantom.dicom_file import WINDOWS, Encoding, draw_encoding, image_id, patient_id, write_dicom
from cxr_mmdet.structures.labels import LABELS_14

SYNTAXES = (ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless, JPEG2000Lossless)


@pytest.fixture(scope="module")
def phantom():
    """An image of odd width, so that 8-bit pixel data needs a padding byte."""
    return render_phantom(plan_case(6, 0, abnormal_share=1, labels=LABELS_14), size=161)


def shown(dataset):
    """Return the image, 0 black … 1 white, as PS3.3 C.11 and PS3.4 N.2 prescribe."""
    values = apply_modality_lut(dataset.pixel_array, dataset)
    if "WindowCenter" in dataset:
        # pydicom maps a window to the stored range after the rescale.
        top = (1 << dataset.BitsStored) - 1
        slope, intercept = float(dataset.get("RescaleSlope", 1)), float(dataset.get("RescaleIntercept", 0))
        grey = (apply_voi_lut(values, dataset) - intercept) / (top * slope)
    else:
        grey = values / ((1 << dataset.BitsStored) - 1)
    return 1 - grey if dataset.PhotometricInterpretation == "MONOCHROME1" else grey


def written(tmp_path, phantom, encoding):
    path = tmp_path / "image.dicom"
    write_dicom(path, phantom, encoding)
    return pydicom.dcmread(path)


def encodings():
    for bits in (8, 10, 12, 15, 16):
        yield Encoding(bits_stored=bits)
        yield Encoding(bits_stored=bits, photometric="MONOCHROME1", window="none")
    for syntax in SYNTAXES:
        for bits in (8, 12, 16):
            yield Encoding(bits_stored=bits, syntax=syntax, photometric="MONOCHROME1")
    for window in WINDOWS:
        for slope, intercept in ((1.0, 0.0), (0.5, -1024.0), (2.0, 100.0)):
            if window != "none":
                yield Encoding(bits_stored=14, window=window, slope=slope, intercept=intercept, used=(0.07, 0.93))
        yield Encoding(bits_stored=12, window=window, photometric="MONOCHROME1")


@pytest.mark.parametrize("encoding", list(encodings()), ids=str)
def test_every_encoding_shows_the_same_image(tmp_path, phantom, encoding):
    dataset = written(tmp_path, phantom, encoding)
    # A sigmoid cannot reach black and white; 8 bits hold steps of 1/255.
    tolerance = 0.006 if encoding.window == "sigmoid" else max(0.75 / (1 << encoding.bits_stored), 0.0006)
    assert np.abs(shown(dataset) - np.clip(phantom.image, 0, 1)).max() < tolerance
    assert dataset.file_meta.TransferSyntaxUID == encoding.syntax
    assert dataset.PhotometricInterpretation == encoding.photometric
    assert dataset.BitsStored == encoding.bits_stored
    assert dataset.BitsAllocated == (8 if encoding.bits_stored == 8 else 16)


@pytest.mark.parametrize("encoding", [e for e in encodings() if e.window != "none"], ids=str)
def test_our_own_reader_shows_the_same_image(tmp_path, phantom, encoding):
    path = tmp_path / "image.dicom"
    write_dicom(path, phantom, encoding)
    radiograph = read_radiograph(path)
    assert np.abs(radiograph.pixels / 255 - np.clip(phantom.image, 0, 1)).max() < 0.012
    assert radiograph.warnings == ()
    assert radiograph.patient_id == patient_id(phantom.case)
    assert radiograph.pixel_spacing == pytest.approx((phantom.spacing, phantom.spacing), abs=1e-4)


def test_our_own_reader_shows_an_image_without_window_alike(tmp_path, phantom):
    path = tmp_path / "image.dicom"
    write_dicom(path, phantom, Encoding(window="none"))
    pixels = read_radiograph(path).pixels
    assert np.corrcoef(pixels.ravel(), phantom.image.ravel())[0, 1] > 0.99


def test_several_windows_put_the_right_one_first(tmp_path, phantom):
    dataset = written(tmp_path, phantom, Encoding(window="several"))
    assert len(dataset.WindowCenter) == len(dataset.WindowWidth) == len(dataset.WindowCenterWidthExplanation) == 2


class TestHeader:
    def test_names_the_patient_and_the_view(self, tmp_path, phantom):
        dataset = written(tmp_path, phantom, Encoding())
        patient = phantom.case.patient
        assert dataset.PatientSex == ("F" if patient.female else "M")
        assert dataset.PatientAge == f"{patient.age:03d}Y"
        assert dataset.ViewPosition in ("PA", "AP")
        assert dataset.PixelSpacing if "PixelSpacing" in dataset else dataset.ImagerPixelSpacing

    def test_holds_no_date(self, tmp_path, phantom):
        dataset = written(tmp_path, phantom, Encoding())
        assert [element for element in dataset.iterall() if element.VR in ("DA", "TM", "DT") and element.value] == []

    def test_uids_are_valid_and_differ(self, tmp_path, phantom):
        dataset = written(tmp_path, phantom, Encoding())
        uids = [dataset.SOPInstanceUID, dataset.StudyInstanceUID, dataset.SeriesInstanceUID]
        assert all(UID(uid).is_valid for uid in uids)
        assert len(set(uids)) == 3
        assert dataset.file_meta.MediaStorageSOPInstanceUID == dataset.SOPInstanceUID
        other = dataclasses.replace(phantom, case=dataclasses.replace(phantom.case, index=1))
        assert written(tmp_path, other, Encoding()).SOPInstanceUID != dataset.SOPInstanceUID

    @pytest.mark.parametrize("index", range(4))
    def test_rescale_other_than_the_identity_is_computed_radiography(self, tmp_path, phantom, index):
        image = dataclasses.replace(phantom, case=dataclasses.replace(phantom.case, index=index))
        assert written(tmp_path, image, Encoding(slope=2.0)).Modality == "CR"
        digital = written(tmp_path, image, Encoding())
        assert (digital.Modality, digital.get("PresentationIntentType")) in (("DX", "FOR PRESENTATION"), ("CR", None))


def test_names_are_32_hexadecimal_digits_and_never_repeat():
    names = {image_id(seed, index) for seed in range(5) for index in range(50)}
    assert len(names) == 250
    assert all(len(name) == 32 and set(name) <= set("0123456789abcdef") for name in names)


def test_all_kinds_of_files_occur():
    drawn = [draw_encoding(plan_case(1, index, abnormal_share=0, labels=LABELS_14)) for index in range(300)]
    assert {encoding.bits_stored for encoding in drawn} == {8, 10, 12, 14, 15, 16}
    assert {encoding.syntax for encoding in drawn} == set(SYNTAXES)
    assert {encoding.window for encoding in drawn} == set(WINDOWS)
    assert 0.2 < np.mean([encoding.photometric == "MONOCHROME1" for encoding in drawn]) < 0.4
    assert any(encoding.slope != 1 for encoding in drawn)
    assert np.mean([encoding.bits_stored >= 12 for encoding in drawn]) > 0.6


def test_images_of_one_patient_share_the_patient_id():
    cases = [plan_case(2, index, abnormal_share=0, labels=LABELS_14) for index in range(60)]
    numbers = {(case.patient.number, patient_id(case)) for case in cases}
    assert len(numbers) == len({number for number, _ in numbers}) == len({name for _, name in numbers}) < 60
