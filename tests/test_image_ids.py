"""One radiograph has one id, whichever front end reads it: files named by a UID without suffix, in every container."""

from __future__ import annotations

import json
import zipfile
from typing import TYPE_CHECKING

import numpy as np
import pytest
from conftest import write_radiograph
from detectors import bundle_of
from typer.testing import CliRunner

from cxr_mmdet.batch.run import RunOptions, predict_many
from cxr_mmdet.cli import report
from cxr_mmdet.datasets import CxrDataset
from cxr_mmdet.errors import DatasetError
from cxr_mmdet.inference.export.parity import user_set
from cxr_mmdet.preparation.build import BuildOptions, build_dataset
from cxr_mmdet.preparation.survey import survey_folder
from cxr_mmdet.structures.detections import Detections, Findings
from cxr_mmdet.structures.radiograph_files import find_radiographs
from cxr_mmdet.web.uploads import UploadLimits, read_uploads

if TYPE_CHECKING:
    from pathlib import Path

UIDS = [f"1.2.826.0.1.3680043.{number}" for number in (1, 2, 10)]


class NothingFound:
    """A predictor that finds nothing."""

    class_names = ("ILD",)
    has_gate = False
    score_threshold = 0.05
    model_id = "nothing"
    workers = 1
    min_short_edge = None

    def check(self, thresholds):
        pass

    def predict_radiographs(self, radiographs, thresholds, augmentation=None):
        return [
            Findings.of(Detections([], [], [], self.class_names), size_hw=each.size_hw, model_id=self.model_id)
            for each in radiographs
        ]


@pytest.fixture
def src(tmp_path: Path) -> Path:
    """A folder as archives export it, with a readers' table."""
    folder = tmp_path / "src"
    rows = ["image_id,class_name,class_id,rad_id,x_min,y_min,x_max,y_max"]
    for number, uid in enumerate(UIDS):
        pixels = np.random.default_rng(number).integers(0, 4096, (40, 30), dtype=np.uint16)
        study = {"PatientID": f"P{number}", "StudyInstanceUID": "1.2.3", "SeriesInstanceUID": "1.2.3.4"}
        write_radiograph(folder / "train" / uid, pixels, **study)
        rows.append(f"{uid},ILD,5,R1,5,5,20,20")
    (folder / "train.csv").write_text("\n".join(rows))
    return folder


@pytest.fixture
def archive(src: Path, tmp_path: Path) -> Path:
    path = tmp_path / "study.zip"
    with zipfile.ZipFile(path, "w") as file:
        for uid in reversed(UIDS):
            file.write(src / "train" / uid, f"DICOM/{uid}")
        file.writestr("DICOM/README", "no radiograph")
        file.writestr("DICOM/README.1", "no radiograph")
    return path


@pytest.fixture
def prepared(src: Path, tmp_path: Path) -> Path:
    return build_dataset(src, tmp_path / "prepared", BuildOptions(labels=("auto",), val_ratio=0.34, short_edge=0)).out


def coco_files(prepared: Path) -> list[Path]:
    return [prepared / "annotations" / f"{split}_auto.json" for split in ("train", "val")]


def test_preparation(src: Path, prepared: Path):
    assert sorted(path.name for path in (prepared / "images").iterdir()) == sorted(f"{uid}.png" for uid in UIDS)
    assert survey_folder(src).readable == len(UIDS)


def test_prediction_of_folders_archives_lists_and_patterns(src: Path, archive: Path):
    files = [str(src / "train" / uid) for uid in UIDS]
    for inputs in ([str(src)], [str(archive)], files, [str(src / "train" / "1.2.*")]):
        found = find_radiographs(inputs)
        assert sorted(file.image_id for file in found) == sorted(UIDS)
        assert all(file.read() == (src / "train" / file.image_id).read_bytes() for file in found)


def test_coco_numbers_of_a_prepared_folder(src: Path, archive: Path, prepared: Path, tmp_path: Path):
    for coco in coco_files(prepared):
        expected = len(json.loads(coco.read_text())["images"])
        for number, inputs in enumerate((src, archive)):
            out = tmp_path / f"out-{coco.stem}-{number}"
            done = predict_many(NothingFound(), find_radiographs([str(inputs)]), out, RunOptions(coco=coco))
            assert done.images == expected > 0


@pytest.mark.parametrize(
    "entry",
    [
        lambda uid: {"file_name": uid},
        lambda uid: {"file_name": f"{uid}.dcm"},
        lambda uid: {"file_name": f"train\\{uid}.png"},
        lambda uid: {"file_name": f"images/{uid}.png", "image_id": uid},
        lambda uid: {"file_name": f"{len(uid)}-{uid[-1]}.png", "image_id": f"{uid}.dicom"},
    ],
)
def test_coco_numbers_of_other_files(src: Path, tmp_path: Path, entry):
    images = [{"id": 7 + n, "height": 40, "width": 30, **entry(uid)} for n, uid in enumerate(UIDS)]
    path = tmp_path / "truth.json"
    path.write_text(json.dumps({"images": images, "annotations": [], "categories": [{"id": 1, "name": "ILD"}]}))
    found = find_radiographs([str(src)])
    assert predict_many(NothingFound(), found, tmp_path / "out", RunOptions(coco=path)).images == len(UIDS)


def test_a_coco_file_that_names_two_images_alike(src: Path, tmp_path: Path):
    names = (f"a/{UIDS[0]}.png", f"b/{UIDS[0]}.dcm")
    images = [{"id": n, "height": 40, "width": 30, "file_name": name} for n, name in enumerate(names, 1)]
    path = tmp_path / "truth.json"
    path.write_text(json.dumps({"images": images, "annotations": [], "categories": [{"id": 1, "name": "ILD"}]}))
    with pytest.raises(DatasetError, match=r"truth\.json: the images with id 1 and 2 are both named '1\.2\.826"):
        predict_many(NothingFound(), find_radiographs([str(src)]), tmp_path / "out", RunOptions(coco=path))


def test_uploads(src: Path, archive: Path):
    for paths in ([src / "train" / uid for uid in UIDS], [archive]):
        uploads, notes = read_uploads(paths, UploadLimits())
        assert notes == []
        assert sorted(upload.image_id for upload in uploads) == sorted(UIDS)
        assert sorted(upload.name for upload in uploads) == sorted(UIDS)


def test_files_of_one_name_get_the_same_numbers_in_folders_archives_and_uploads(src: Path, tmp_path: Path):
    content = (src / "train" / UIDS[0]).read_bytes()
    members = [f"{folder}/{UIDS[0]}" for folder in ("a b", "a", "a-b")]
    with zipfile.ZipFile(tmp_path / "study.zip", "w") as file:
        for member in members:
            (tmp_path / "in" / member).parent.mkdir(parents=True)
            (tmp_path / "in" / member).write_bytes(content + member.encode())
            file.writestr(member, content + member.encode())
    in_folder = {file.image_id: file.read() for file in find_radiographs([str(tmp_path / "in")])}
    assert list(in_folder) == [UIDS[0], f"{UIDS[0]}-2", f"{UIDS[0]}-3"]
    assert {file.image_id: file.read() for file in find_radiographs([str(tmp_path / "study.zip")])} == in_folder
    uploads, _ = read_uploads([tmp_path / "study.zip"], UploadLimits())
    assert {upload.image_id: upload.content for upload in uploads} == in_folder


def test_reports(src: Path, archive: Path, tmp_path: Path):
    model = str(bundle_of("retina", "onnx"))
    for number, inputs in enumerate((src, archive)):
        out = tmp_path / f"reports-{number}"
        arguments = ["write", model, str(inputs), "--out", str(out), "--no-capture"]
        result = CliRunner().invoke(report.app, arguments)
        assert result.exit_code == 0, result.output
        assert sorted(path.name for path in out.iterdir()) == sorted(f"{uid}.sr.dcm" for uid in UIDS)


def test_the_check_of_an_export(src: Path, archive: Path, prepared: Path):
    for path in (src, archive):
        assert sorted(file.image_id for file in user_set(path, ("ILD",)).items) == sorted(UIDS)
    ids = [file.image_id for path in coco_files(prepared) for file in user_set(path, ("ILD",)).items]
    assert sorted(ids) == sorted(UIDS)


def test_training_on_the_originals(src: Path, prepared: Path):
    originals = {"data_prefix": {"img": str(src / "train")}, "img_suffix": ""}
    pipeline = [{"type": "LoadRadiograph", "short_edge": 0}]
    for coco in coco_files(prepared):
        dataset = CxrDataset(data_root=str(prepared), ann_file=str(coco), pipeline=pipeline, **originals)
        for index in range(len(dataset)):
            assert dataset.prepare_data(index)["img"].shape == (40, 30)
