"""The folder: VinBigData's layout, the same bytes for the same seed, and every bad argument in one sentence."""

import hashlib
import re
import subprocess
import sys

import pandas as pd
import pydicom
import pytest
from conftest import full_disk
from typer.testing import CliRunner

from cxr_mmdet.cli.prepare_data import app
from cxr_mmdet.errors import CxrError, UsageError
from cxr_mmdet.phantom import write_phantoms
from cxr_mmdet.phantom.organs import ORGANS
from cxr_mmdet.structures.labels import LABELS_5, LABELS_14

SIZE = 128
COLUMNS = ["image_id", "class_name", "class_id", "rad_id", "x_min", "y_min", "x_max", "y_max"]


def digest(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Fourteen images, half of them abnormal, and what was reported about them."""
    folder = tmp_path_factory.mktemp("phantom") / "set"
    steps = []
    progress = lambda done, total: steps.append((done, total))  # noqa: E731
    summary = write_phantoms(folder, images=14, seed=3, size=SIZE, abnormal_share=0.5, progress=progress)
    return folder, summary, steps


def table(folder, name="train.csv"):
    return pd.read_csv(folder / name)


class TestLayout:
    def test_files(self, written):
        folder, _, _ = written
        assert sorted(path.name for path in folder.iterdir()) == ["train", "train.csv", "truth.csv"]
        files = sorted(path.name for path in (folder / "train").iterdir())
        assert files == sorted(f"{name}.dicom" for name in table(folder).image_id.unique())
        assert len(files) == 14

    def test_tables(self, written):
        folder, _, _ = written
        for name, readers in (("train.csv", 3), ("truth.csv", 1)):
            rows = table(folder, name)
            assert list(rows.columns) == COLUMNS
            assert set(rows.groupby("image_id").rad_id.nunique()) == {readers}
            normal = rows[rows.class_id == 14]
            assert set(normal.class_name) == {"No finding"}
            assert normal[COLUMNS[4:]].isna().all(axis=None)
            found = rows[rows.class_id != 14]
            assert [LABELS_14[i] for i in found.class_id] == list(found.class_name)
            assert not found.duplicated().any()
            # Who finds something does not say "No finding" about the same image.
            assert not set(zip(found.image_id, found.rad_id, strict=True)) & set(
                zip(normal.image_id, normal.rad_id, strict=True)
            )
        assert set(table(folder, "truth.csv").rad_id) == {"truth"}

    def test_numbers_are_spelt_as_in_vinbigdata(self, written):
        lines = (written[0] / "train.csv").read_text().splitlines()
        empty = [line for line in lines if "No finding" in line]
        boxes = [line for line in lines[1:] if "No finding" not in line]
        assert all(line.endswith(",,,,") and line.split(",")[2] == "14" for line in empty)
        assert all(value.endswith(".0") for line in boxes for value in line.split(",")[4:])

    def test_boxes_lie_inside_their_images(self, written):
        folder, _, _ = written
        for name, rows in table(folder).dropna().groupby("image_id"):
            dataset = pydicom.dcmread(folder / "train" / f"{name}.dicom", stop_before_pixels=True)
            assert min(dataset.Rows, dataset.Columns) == SIZE
            assert (rows[["x_min", "y_min"]] >= 0).all(axis=None)
            assert (rows.x_max <= dataset.Columns).all()
            assert (rows.y_max <= dataset.Rows).all()

    def test_summary_counts_what_lies_there(self, written):
        folder, summary, steps = written
        truth, marks = table(folder, "truth.csv"), table(folder)
        assert (summary.path, summary.images) == (folder, 14)
        assert summary.abnormal_images == truth[truth.class_id != 14].image_id.nunique() > 0
        assert summary.truth_boxes == {label: int((truth.class_name == label).sum()) for label in LABELS_14}
        assert summary.reader_boxes == {label: int((marks.class_name == label).sum()) for label in LABELS_14}
        identities = {pydicom.dcmread(path, stop_before_pixels=True).PatientID for path in folder.rglob("*.dicom")}
        assert summary.patients == len(identities)
        assert steps == [(1, 14)] * 14


class TestDeterminism:
    def test_same_seed_same_bytes_whatever_the_jobs(self, written, tmp_path):
        write_phantoms(tmp_path / "two", images=14, seed=3, size=SIZE, abnormal_share=0.5, jobs=2)
        assert digest(tmp_path / "two") == digest(written[0])

    def test_a_larger_set_begins_with_the_smaller(self, written, tmp_path):
        write_phantoms(tmp_path / "few", images=5, seed=3, size=SIZE, abnormal_share=0.5)
        few, all_files = digest(tmp_path / "few"), digest(written[0])
        assert {name: value for name, value in few.items() if name.startswith("train/")}.items() <= all_files.items()
        assert (written[0] / "train.csv").read_text().startswith((tmp_path / "few" / "train.csv").read_text())

    def test_another_seed_gives_other_images(self, written, tmp_path):
        write_phantoms(tmp_path / "other", images=2, seed=4, size=SIZE)
        assert not set(digest(tmp_path / "other").values()) & set(digest(written[0]).values())


def test_one_image(tmp_path):
    summary = write_phantoms(tmp_path / "one", images=1, seed=0, size=SIZE, abnormal_share=1.0)
    assert (summary.images, summary.patients, summary.abnormal_images) == (1, 1, 1)


def test_nobody_ill(tmp_path):
    summary = write_phantoms(tmp_path / "healthy", images=4, seed=0, size=SIZE, abnormal_share=0.0)
    assert summary.abnormal_images == sum(summary.truth_boxes.values()) == sum(summary.reader_boxes.values()) == 0
    assert list(table(tmp_path / "healthy").class_id) == [14] * 12


def test_labels_restrict_what_is_drawn_and_read(tmp_path):
    summary = write_phantoms(tmp_path / "five", images=12, seed=1, size=SIZE, abnormal_share=1.0, labels=LABELS_5)
    assert tuple(summary.truth_boxes) == LABELS_5
    assert set(table(tmp_path / "five").class_name) <= {*LABELS_5, "No finding"}
    assert summary.abnormal_images == 12


def test_order_of_labels_makes_no_difference(tmp_path):
    for name, labels in (("a", LABELS_5), ("b", LABELS_5[::-1])):
        write_phantoms(tmp_path / name, images=2, seed=1, size=SIZE, abnormal_share=1.0, labels=labels)
    assert digest(tmp_path / "a") == digest(tmp_path / "b")


def test_empty_folder_is_used(tmp_path):
    (tmp_path / "there").mkdir()
    assert write_phantoms(tmp_path / "there", images=1, seed=0, size=SIZE).images == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"images": 0}, "--images 0"),
        ({"images": -3}, "--images -3"),
        ({"seed": -1}, "--seed -1"),
        ({"size": 20}, "--size 20"),
        ({"size": 100_000}, "between 128 and 4096"),
        ({"abnormal_share": 1.2}, "--abnormal-share 1.2"),
        ({"abnormal_share": float("nan")}, "--abnormal-share nan"),
        ({"bedside_share": -0.1}, "--bedside-share -0.1"),
        ({"readers": 0}, "--readers 0"),
        ({"readers": 18}, "ask for 1 to 17"),
        ({"jobs": 0}, "--jobs 0"),
        ({"labels": ("ILD", "Fracture")}, "'Fracture' cannot be drawn"),
        ({"labels": ()}, "name at least one"),
    ],
)
def test_bad_arguments(tmp_path, arguments, message):
    with pytest.raises(UsageError, match=message):
        write_phantoms(tmp_path / "out", **({"images": 1, "seed": 0, "size": SIZE} | arguments))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", ["full folder", "file"])
def test_refuses_what_is_there(tmp_path, kind):
    out = tmp_path / "out"
    if kind == "file":
        out.write_text("mine")
    else:
        out.mkdir()
        (out / "train.csv").write_text("mine")
    before = digest(tmp_path)
    with pytest.raises(UsageError, match="not an empty folder"):
        write_phantoms(out, images=1, seed=0, size=SIZE)
    assert digest(tmp_path) == before


def test_an_interrupted_set_can_be_told_from_real_radiographs(tmp_path):
    """The command line's --force removes a train folder only where a truth.csv says that it is a phantom's."""

    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_phantoms(tmp_path / "out", images=3, seed=0, size=SIZE, progress=stop)
    assert (tmp_path / "out" / "truth.csv").is_file()
    assert not (tmp_path / "out" / "train.csv").exists()


def test_neither_torch_nor_scipy_is_imported():
    code = "import sys, cxr_mmdet.phantom; print({'torch', 'mmdet', 'mmcv', 'scipy'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"


def test_a_full_disk_is_one_sentence_and_leaves_nothing(tmp_path):
    """A traceback and half a set were left, which then was in the way of the next try."""
    arguments = ["phantom", str(tmp_path / "set"), "--images", "6", "--size", str(SIZE)]
    with full_disk(30_000):
        result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 1
    assert re.search(r"^error: .*\.dicom: cannot be written \(File too large\); free the disk", result.stderr)
    assert not list((tmp_path / "set").iterdir())


def test_a_killed_worker_is_one_sentence_and_leaves_nothing(tmp_path, monkeypatch):
    """A traceback and half a set were left."""
    from cxr_mmdet.phantom import writer

    started = writer.map_unordered

    def killed(function, tasks, *, jobs):
        yield next(started(function, tasks, jobs=1))
        raise CxrError("a worker process was killed")

    monkeypatch.setattr(writer, "map_unordered", killed)
    arguments = ["phantom", str(tmp_path / "set"), "--images", "3", "--size", str(SIZE), "--jobs", "2"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 1
    assert "a worker process was killed" in result.output
    assert not digest(tmp_path)


def test_anatomy_adds_rows_and_changes_nothing_else(tmp_path):
    common = {"images": 3, "seed": 5, "size": SIZE, "abnormal_share": 0.6}
    plain, both = tmp_path / "plain", tmp_path / "both"
    write_phantoms(plain, **common)
    summary = write_phantoms(both, anatomy=True, **common)
    assert digest(plain / "train") == digest(both / "train")
    for name in ("truth.csv", "train.csv"):
        rows = table(both, name)
        organs = rows["class_name"].isin(ORGANS)
        findings = table(plain, name).dropna()
        pd.testing.assert_frame_equal(rows[~organs].reset_index(drop=True), findings.reset_index(drop=True))
        assert set(rows[organs].class_name) == set(ORGANS)
        assert not rows.duplicated().any()
    assert summary.truth_boxes["Left lung"] == 3
    assert summary.reader_boxes["Left lung"] == 9
    assert summary.abnormal_images == table(plain, "truth.csv").dropna().image_id.nunique()
