"""Folders of radiographs: what is found, what is written, what a second run does, what a bad file does."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest
from conftest import full_disk
from pydicom import Dataset, dcmread, dcmwrite
from pydicom.dataset import FileMetaDataset
from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian, generate_uid

from cxr_mmdet.errors import DatasetError
from cxr_mmdet.preparation import images
from cxr_mmdet.preparation.images import prepare_images, shrink, write_grey_png
from cxr_mmdet.preparation.survey import survey_folder
from cxr_mmdet.structures.radiograph_files import find_originals

if TYPE_CHECKING:
    from pathlib import Path


def write_dicom(path: Path, size_hw: tuple[int, int] = (60, 40), patient: str = "P1", value: int = 0) -> Path:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = DigitalXRayImageStorageForPresentation
    dataset.SOPInstanceUID = generate_uid(entropy_srcs=[path.name])
    dataset.PatientID = patient
    dataset.Rows, dataset.Columns = size_hw
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit, dataset.PixelRepresentation = 7, 0
    dataset.WindowCenter, dataset.WindowWidth = 128, 256
    dataset.PixelData = ((np.indices(size_hw).sum(0) * 2 + value) % 256).astype(np.uint8).tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(4):
        write_dicom(tmp_path / "src" / "train" / f"i{number}.dicom", patient=f"P{number // 2}", value=number)
    return tmp_path / "src"


def test_radiographs_are_found_in_train_or_in_the_folder_itself(folder: Path) -> None:
    (folder / "train" / "notes.txt").write_text("not an image")
    (folder / "train" / "README").write_text("not an image either" * 20)
    (folder / "train" / ".hidden.dicom").write_text("not either")
    assert list(find_originals(folder)) == ["i0", "i1", "i2", "i3"]
    assert find_originals(folder / "train") == find_originals(folder)


def test_an_archives_files_without_suffix_are_known_by_their_content(tmp_path: Path) -> None:
    write_dicom(tmp_path / "IM000001")
    assert find_originals(tmp_path) == {"IM000001": tmp_path / "IM000001"}


@pytest.mark.parametrize("encoding", [(True, True), (False, True), (False, False)])
def test_files_without_prefix_and_suffix_too(tmp_path: Path, encoding: tuple[bool, bool]) -> None:
    """Old scanners' files begin with their first element; doctor counted them as other files."""
    implicit, little = encoding
    write_dicom(tmp_path / "x.dcm")
    dataset = dcmread(tmp_path / "x.dcm")
    dataset.preamble = None
    del dataset.file_meta
    dcmwrite(tmp_path / "IM000001", dataset, implicit_vr=implicit, little_endian=little)
    (tmp_path / "x.dcm").unlink()
    (tmp_path / "README").write_text("not an image either" * 20)
    (tmp_path / "data").write_bytes(bytes(range(256)))
    assert find_originals(tmp_path) == {"IM000001": tmp_path / "IM000001"}
    survey = survey_folder(tmp_path)
    assert (survey.readable, survey.other_files, survey.unreadable) == (1, 2, {})


def test_nothing_found_and_two_of_a_name_are_errors(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no such folder"):
        find_originals(tmp_path / "elsewhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match="no radiograph"):
        find_originals(tmp_path / "empty")
    (folder / "train" / "i2.png").write_bytes(b"")
    with pytest.raises(DatasetError, match=r"i2\.dicom and i2\.png"):
        find_originals(folder)


def test_images_shrink_to_the_short_edge_and_never_grow(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out" / "images"
    for short_edge, expected in [(20, (30, 20)), (0, (60, 40)), (1000, (60, 40))]:
        prepared = prepare_images(find_originals(folder), out, short_edge=short_edge)
        assert prepared.failures == ()
        assert [image.image_id for image in prepared.images] == ["i0", "i1", "i2", "i3"]
        first = prepared.images[0]
        assert (first.size_hw, first.original_size_hw) == (expected, (60, 40))
        assert cv2.imread(str(first.path), cv2.IMREAD_UNCHANGED).shape == expected  # one plane
        assert [image.patient for image in prepared.images] == [
            "patient-of-i0",
            "patient-of-i0",
            "patient-of-i2",
            "patient-of-i2",
        ]


def test_shrinking_averages_areas() -> None:
    image = np.array([[0, 100], [200, 100]], np.uint8).repeat(8, 0).repeat(8, 1)
    np.testing.assert_array_equal(shrink(image, 2), [[0, 100], [200, 100]])
    assert shrink(image, 1)[0, 0] == (0 + 100 + 200 + 100) // 4
    assert shrink(np.zeros((1, 500), np.uint8), 1).shape == (1, 500)


def test_pixels_become_square_by_shrinking_the_denser_axis(tmp_path: Path) -> None:
    assert shrink(np.zeros((100, 80), np.uint8), 0, 2.0).shape == (100, 40)
    assert shrink(np.zeros((100, 80), np.uint8), 0, 0.5).shape == (50, 80)
    assert shrink(np.zeros((100, 80), np.uint8), 20, 2.0).shape == (50, 20)
    path = write_dicom(tmp_path / "flat.dcm", size_hw=(60, 40))
    dataset = dcmread(path)
    dataset.PixelAspectRatio = [1, 2]
    dataset.save_as(path)
    image = prepare_images({"flat": path}, tmp_path / "out" / "images").images[0]
    assert (image.size_hw, image.original_size_hw) == ((30, 40), (60, 40))
    assert image.warnings == ("pixels are 0.5 times as high as wide",)


def test_parallel_and_serial_write_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    serial = prepare_images(find_originals(folder), tmp_path / "a" / "images", short_edge=20)
    parallel = prepare_images(find_originals(folder), tmp_path / "b" / "images", short_edge=20, jobs=2)
    for one, other in zip(serial.images, parallel.images, strict=True):
        assert one.path.read_bytes() == other.path.read_bytes()
    assert (tmp_path / "a" / "images.json").read_bytes() == (tmp_path / "b" / "images.json").read_bytes()


def test_a_second_run_renders_only_what_is_missing_or_changed(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out" / "images"
    sources = find_originals(folder)
    first = prepare_images(sources, out)
    counts: list[int] = []
    again = prepare_images(sources, out, progress=lambda done, total: counts.append(done))
    assert (again.images, again.reused, sum(counts)) == (first.images, 4, 4)

    before = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    (out / "i0.png").unlink()
    write_dicom(sources["i1"], size_hw=(50, 40))
    os.utime(sources["i1"], ns=(1, 1))
    third = prepare_images(sources, out)
    assert third.reused == 2
    assert third.images[1].original_size_hw == (50, 40)
    untouched = [name for name, time in before.items() if (out / name).stat().st_mtime_ns == time]
    assert sorted(untouched) == ["i2.png", "i3.png"]
    assert prepare_images(sources, out, short_edge=30).reused == 0


def test_one_bad_file_does_not_stop_the_others(folder: Path, tmp_path: Path) -> None:
    (folder / "train" / "i1.dicom").write_bytes(b"nonsense")
    (folder / "train" / "i2.dicom").write_bytes((folder / "train" / "i2.dicom").read_bytes()[:-9])
    prepared = prepare_images(find_originals(folder), tmp_path / "out" / "images")
    assert [image.image_id for image in prepared.images] == ["i0", "i3"]
    assert [failure.image_id for failure in prepared.failures] == ["i1", "i2"]
    assert "not a DICOM file" in prepared.failures[0].reason
    assert sorted(path.name for path in (tmp_path / "out" / "images").iterdir()) == ["i0.png", "i3.png"]


def test_an_interrupted_run_resumes(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out" / "images"

    def interrupt(count: int, total: int, seen: list[int] = []) -> None:  # noqa: B006
        seen.append(count)
        if sum(seen) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare_images(find_originals(folder), out, progress=interrupt)
    assert prepare_images(find_originals(folder), out).reused >= 2


@pytest.mark.parametrize(("write_seconds", "expected"), [(0.0, [0, 1, 2, 3, 4, 5]), (1.0, [0, 1, 1, 1, 2, 2])])
def test_saving_the_index_takes_a_small_share_of_the_time(folder, tmp_path, monkeypatch, write_seconds, expected):
    """It was written after every 200th image, a third of the time of a whole competition."""
    clock, seen, saved = [0.0], [], []
    monkeypatch.setattr(images.time, "monotonic", lambda: clock[0])

    def write(*_: object, **__: object) -> None:
        saved.append(clock[0])
        clock[0] += write_seconds

    def render(image_id: str, path: Path, *_: object) -> images.Failure:
        clock[0] += 20
        return images.Failure(image_id, path, "")

    def progress(done: int, total: int) -> None:
        seen.append(len(saved))

    monkeypatch.setattr(images, "write_json", write)
    monkeypatch.setattr(images, "prepare_image", render)
    prepare_images({f"i{number}": folder for number in range(5)}, tmp_path / "images", progress=progress)
    assert seen == expected


def test_a_damaged_index_is_named(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out" / "images"
    prepare_images(find_originals(folder), out)
    (out.parent / "images.json").write_text("{")
    with pytest.raises(DatasetError, match=r"images\.json"):
        prepare_images(find_originals(folder), out)


def test_a_prepared_folder_carries_no_patient_data(folder: Path, tmp_path: Path) -> None:
    write_dicom(folder / "train" / "i0.dicom", patient="SECRET-4711")
    prepared = prepare_images(find_originals(folder), tmp_path / "out" / "images")
    assert prepared.images[0].patient == "patient-of-i0"
    assert "SECRET" not in repr(prepared)
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file() and b"SECRET" in path.read_bytes()]


def test_a_uid_as_name_has_no_suffix(tmp_path: Path) -> None:
    for name in ("1.2.840.10", "1.2.840.11", "1.2.840.12.dcm"):
        write_dicom(tmp_path / name)
    (tmp_path / "1.2.840.13").write_text("no image")
    assert list(find_originals(tmp_path)) == ["1.2.840.10", "1.2.840.11", "1.2.840.12"]


def test_what_a_killed_run_left_half_written_is_removed(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out" / "images"
    out.mkdir(parents=True)
    for name, age in ((".i0-abc.png", 3600), (".i1-abc.png", 0)):
        (out / name).touch()
        os.utime(out / name, (time.time() - age,) * 2)
    prepare_images(find_originals(folder), out)
    assert [path.name for path in out.glob(".*")] == [".i1-abc.png"]  # the young one may be another run's


def test_an_image_that_cannot_be_written_is_one_sentence(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "images").touch()
    with pytest.raises(DatasetError, match=r"i0\.png: cannot be written"):
        prepare_images(find_originals(folder), tmp_path / "out" / "images")


def test_the_image_of_a_file_that_broke_since_is_removed(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out" / "images"
    prepare_images(find_originals(folder), out)
    (folder / "train" / "i2.dicom").write_bytes(b"broken since")
    again = prepare_images(find_originals(folder), out)
    assert [failure.image_id for failure in again.failures] == ["i2"]
    assert not (out / "i2.png").exists()
    assert "i2" not in (out.parent / "images.json").read_text()


@pytest.mark.parametrize("missing", range(1, 300, 40))
def test_a_full_disk_leaves_no_cut_image_that_counts_as_finished(folder: Path, tmp_path: Path, missing: int) -> None:
    """OpenCV reports success where only its last block does not fit."""
    pixels = np.random.default_rng(0).integers(0, 255, (90, 90), dtype=np.uint8)
    write_grey_png(tmp_path / "whole.png", pixels)
    size = (tmp_path / "whole.png").stat().st_size
    with full_disk(size - missing), pytest.raises(DatasetError, match="cannot be written"):
        write_grey_png(tmp_path / "cut.png", pixels)
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["whole.png"]
