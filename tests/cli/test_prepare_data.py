"""``prepare_data``: exit codes, messages and what is written, as a user meets them."""

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from cxr_mmdet.cli.prepare_data import app

HEADER = "image_id,class_name,class_id,rad_id,x_min,y_min,x_max,y_max"
TOOL = Path(__file__).parents[2] / "tools/prepare_data.py"


def run(*args):
    return CliRunner().invoke(app, [str(arg) for arg in args])


@pytest.fixture
def src(tmp_path):
    """Ten grey images with one box each; two classes."""
    folder = tmp_path / "src"
    (folder / "train").mkdir(parents=True)
    lines = [HEADER]
    for number in range(10):
        image = np.random.default_rng(number).integers(0, 255, (60, 50), dtype=np.uint8)
        cv2.imwrite(str(folder / f"train/i{number}.png"), image)
        lines.append(f"i{number},{('ILD', 'Cardiomegaly')[number % 2]},{(5, 3)[number % 2]},R1,5,6,{20 + number},30")
    (folder / "train.csv").write_text("\n".join(lines))
    return folder


def test_build_prints_the_counts_and_succeeds(src, tmp_path):
    result = run("build", src, tmp_path / "out", "--labels", "5", "--seed", "1")
    assert result.exit_code == 0, result.stderr
    assert "Cardiomegaly" in result.stdout
    assert "augmented" in result.stdout
    assert f"wrote 10 radiographs to {tmp_path / 'out'}" in result.stderr
    assert (tmp_path / "out/annotations/train_5.json").exists()


def test_every_option_reaches_the_manifest(src, tmp_path):
    (tmp_path / "mine.txt").write_text("Cardiomegaly\nILD\n")
    labels = ("--labels", "auto", "--labels", tmp_path / "mine.txt")
    numbers = ("--val-ratio", "0.3", "--seed", "7", "--short-edge", "40", "--fusion", "nms", "--fusion-iou", "0.5")
    numbers += ("--min-votes", "3", "--folds", "2", "--fold", "2", "--split", "stratified")
    flags = ("--minority", "ILD", "--drop-normals", "--group-by", "image", "--clip-boxes", "--unread-as-normal")
    flags += ("--join-duplicates", "--reduced-jpeg2000")
    result = run("build", src, tmp_path / "out", *labels, *numbers, *flags, "--jobs", "2")
    assert result.exit_code == 0, result.stderr
    assert json.loads((tmp_path / "out/manifest.json").read_text())["parameters"] == {
        "labels": ["auto", "mine.txt"],
        "val_ratio": 0.3,
        "seed": 7,
        "short_edge": 40,
        "reduced_jpeg2000": True,
        "fusion": "nms",
        "reader_model": None,
        "fusion_iou": 0.5,
        "fusion_skip": 0.21,
        "minority": ["ILD"],
        "drop_normals": True,
        "min_votes": 3,
        "split": "stratified",
        "folds": 2,
        "fold": 2,
        "val_list": None,
        "train_readers": [],
        "group_by": "image",
        "join_duplicates": True,
        "allow_duplicates": False,
        "clip_boxes": True,
        "unread_as_normal": True,
    }


def test_defaults_are_the_references(src, tmp_path):
    assert run("build", src, tmp_path / "out").exit_code == 0
    parameters = json.loads((tmp_path / "out/manifest.json").read_text())["parameters"]
    assert parameters | {"labels": ["14"], "val_ratio": 0.2, "seed": 42, "short_edge": 1024} == parameters
    assert parameters | {"fusion": "wbf", "fusion_iou": 0.4, "drop_normals": False} == parameters


def test_failures_make_the_exit_code_unless_allowed(src, tmp_path):
    (src / "train/i3.png").write_bytes(b"broken")
    (src / "train/i4.png").unlink()
    result = run("build", src, tmp_path / "out")
    assert result.exit_code == 1
    assert "i3.png" in result.stderr
    assert "2 failed; all in" in result.stderr
    assert (tmp_path / "out/failures.csv").exists()
    assert (tmp_path / "out/manifest.json").exists()
    assert run("build", src, tmp_path / "out", "--force", "--max-failures", "1").exit_code == 1
    assert run("build", src, tmp_path / "out", "--force", "--max-failures", "2").exit_code == 0


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (("--labels", "15"), 2, "--labels 15: neither 14, 5, auto nor findings_14"),
        (("--val-ratio", "1.5"), 2, "--val-ratio 1.5: expected a share above 0 and below 1"),
        (("--minority", "Cardiomegali"), 2, "--minority Cardiomegali: no label set holds this class"),
        (("--fusion", "mean"), 2, "--fusion"),
        (("--short-edge", "-1"), 2, "--short-edge"),
    ],
)
def test_an_option_that_makes_no_sense_is_one_sentence(src, tmp_path, args, code, message):
    result = run("build", src, tmp_path / "out", *args)
    assert result.exit_code == code
    # A usage error of typer is drawn in a box, wrapped.
    assert message in " ".join(result.stderr.replace("│", " ").split())
    assert "Traceback" not in result.output
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (None, "holds no annotations of a known format. Looked for: vinbigdata: train.csv"),
        ("", "train.csv: is empty"),
        (HEADER, "holds a header but no row"),
        (HEADER.replace(",class_name", ""), "line 1: no column class_name"),
        (HEADER.replace(",", ";"), "columns are separated by ';'"),
        (f"{HEADER}\ni0,ILD,5,R1,5,6,,30", "line 2: 'ILD' lacks x_max"),
        (f"{HEADER}\ni0,ILD,5,R1,5,6,20,30\ni1,ILD,5,R1,5,6,4,30", "line 3: x_max 4 is not beyond x_min 5"),
        (f"{HEADER}\ni0,ILD,5,R1,5,6,51,30", "line 2: x_max 51 is beyond the image width 50"),
        (f"{HEADER}\nother,ILD,5,R1,5,6,20,30", "names none of the 10 radiographs"),
    ],
)
def test_a_bad_table_is_one_sentence(src, tmp_path, table, message):
    if table is None:
        (src / "train.csv").unlink()
    else:
        (src / "train.csv").write_text(table)
    result = run("build", src, tmp_path / "out")
    assert result.exit_code == 1
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert "Traceback" not in result.output


def test_a_source_that_is_not_there_is_a_usage_error(tmp_path):
    result = run("build", tmp_path / "nowhere", tmp_path / "out")
    assert result.exit_code == 2
    assert "nowhere: no such folder" in result.stderr


def test_a_finished_build_is_not_overwritten_without_force(src, tmp_path):
    assert run("build", src, tmp_path / "out").exit_code == 0
    result = run("build", src, tmp_path / "out")
    assert result.exit_code == 2
    assert "--force" in result.stderr
    assert run("build", src, tmp_path / "out", "--force").exit_code == 0


def test_the_tool_is_the_app(src, tmp_path):
    done = subprocess.run(
        [sys.executable, TOOL, "build", src, tmp_path / "out", "--labels", "auto"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "Cardiomegaly" in done.stdout
    assert "preparing" not in done.stderr


@pytest.mark.parametrize("command", ["build", "phantom"])
def test_help_needs_nothing_heavy(command):
    code = (
        "import sys\n"
        "from typer.testing import CliRunner\n"
        "from cxr_mmdet.cli.prepare_data import app\n"
        f"assert CliRunner().invoke(app, ['{command}', '--help']).exit_code == 0\n"
        "print(sorted({'numpy', 'pandas', 'cv2', 'torch', 'pydicom', 'mmdet', 'joblib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


class TestPhantom:
    SMALL = ("--images", 6, "--size", 128, "--seed", 3)

    def test_a_phantom_can_be_built(self, tmp_path):
        result = run("phantom", tmp_path / "phantom", *self.SMALL, "--abnormal-share", 1)
        assert result.exit_code == 0, result.stderr
        assert len(list((tmp_path / "phantom/train").iterdir())) == 6
        result = run("build", tmp_path / "phantom", tmp_path / "out", "--labels", "auto", "--val-ratio", 0.5)
        assert result.exit_code == 0, result.stderr

    def test_a_folder_in_use_is_refused_and_force_replaces_a_phantom_only(self, tmp_path):
        out = tmp_path / "phantom"
        assert run("phantom", out, *self.SMALL).exit_code == 0
        before = {path.name for path in (out / "train").iterdir()}
        assert run("phantom", out, *self.SMALL).exit_code == 2
        assert run("phantom", out, "--images", 2, "--size", 128, "--seed", 4, "--force").exit_code == 0
        after = {path.name for path in (out / "train").iterdir()}
        assert len(after) == 2
        assert not before & after

    def test_force_never_removes_real_radiographs(self, src):
        before = sorted(src.rglob("*"))
        result = run("phantom", src, *self.SMALL, "--force")
        assert result.exit_code == 2
        assert "so they are not phantoms" in result.stderr
        assert sorted(src.rglob("*")) == before

    def test_only_the_asked_findings_are_drawn(self, tmp_path):
        (tmp_path / "two.txt").write_text("Cardiomegaly\nILD\n")
        result = run("phantom", tmp_path / "p", *self.SMALL, "--labels", tmp_path / "two.txt", "--abnormal-share", 1)
        assert result.exit_code == 0, result.stderr
        names = {line.split(",")[1] for line in (tmp_path / "p/train.csv").read_text().splitlines()[1:]}
        assert names <= {"Cardiomegaly", "ILD", "No finding"}
