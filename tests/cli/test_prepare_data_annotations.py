"""``prepare_data annotations|split|report|check``: what a user sees of them."""

import json
import re
import subprocess
import sys

import pandas as pd
import pytest
from conftest import write_reader_source
from typer.testing import CliRunner

from cxr_mmdet.cli.prepare_data import app


def run(*args):
    return CliRunner().invoke(app, [str(arg) for arg in args])


def plain(text):
    """Return what a boxed usage error says, in one line."""
    return " ".join(re.sub("[│╭╮╰╯─]", " ", text).split())


@pytest.fixture
def src(tmp_path):
    return write_reader_source(tmp_path / "src")


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A folder that build wrote; tests that change it leave it finished."""
    root = tmp_path_factory.mktemp("cli")
    args = ("--labels", "auto", "--group-by", "study")
    result = run("build", write_reader_source(root / "src"), root / "out", *args)
    assert result.exit_code == 0, result.output
    return root / "out"


class TestAnnotations:
    def test_a_table_is_read_fused_and_measured(self, src, tmp_path):
        result = run("annotations", src, "--labels", "auto", "--ceiling", "--out", tmp_path / "fused.csv")
        assert result.exit_code == 0, result.output
        assert "49 rows, 16 images (4 without a box), 3 readers" in result.stdout
        assert "kappa" in result.stdout
        assert re.search(r"human ceiling, VOC mAP@.4: 0\.\d{3} \(0\.\d{3} to ", result.stdout)
        fused = pd.read_csv(tmp_path / "fused.csv")
        assert list(fused.columns[:4]) == ["labels", "image_id", "class_name", "x_min"]
        assert len(fused) == 13
        assert fused["votes"].tolist() == [len(names.split(";")) for names in fused["readers"]]

    def test_what_nobody_looked_for_is_unknown(self, tmp_path):
        header = "Image Index,Finding Label,Bbox [x,y,w,h],,,\n"
        lines = ["00000001_000.png,Infiltrate,10,20,300,400,,,", "00000002_000.png,Mass,10,20,300,400,,,"]
        (tmp_path / "BBox_List_2017.csv").write_text(header + "\n".join(lines))
        result = run("annotations", tmp_path, "--labels", "findings_14")
        assert result.exit_code == 0, result.output
        rows = {line[:20].strip(): line[20:].split() for line in result.stdout.splitlines()}
        assert rows["Infiltration"][-3:] == ["1", "0", "1"]
        assert rows["Lung Opacity"][-3:] == ["0", "0", "2"]

    def test_options_reach_the_fusion(self, src, tmp_path):
        (tmp_path / "two.txt").write_text("Any: [ILD, Cardiomegaly]\n")
        args = ("--labels", tmp_path / "two.txt", "--fusion", "vote", "--min-votes", "3")
        result = run("annotations", src / "train.csv", *args, "--out", tmp_path / "fused.csv")
        assert result.exit_code == 0, result.output
        fused = pd.read_csv(tmp_path / "fused.csv")
        assert set(fused["class_name"]) == {"Any"}
        assert set(fused["votes"]) == {3}

    def test_a_file_is_not_overwritten_without_force(self, src, tmp_path):
        (tmp_path / "fused.csv").touch()
        args = ("annotations", src, "--labels", "auto", "--out", tmp_path / "fused.csv")
        assert run(*args).exit_code == 2
        assert run(*args, "--force").exit_code == 0

    def test_the_table_in_the_folder_that_is_read_is_never_replaced(self, src):
        before = (src / "train.csv").read_bytes()
        result = run("annotations", src, "--labels", "auto", "--out", src / "train.csv", "--force")
        assert (result.exit_code, "is read by this command" in result.stderr) == (2, True)
        assert (src / "train.csv").read_bytes() == before

    def test_coco_is_read_and_one_reader_is_noted(self, tmp_path):
        coco = {
            "images": [{"id": 1, "file_name": "a.png"}],
            "categories": [{"id": 1, "name": "Edema"}],
            "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 5, 5]}],
        }
        (tmp_path / "boxes.json").write_text(json.dumps(coco))
        result = run("annotations", tmp_path / "boxes.json", "--labels", "auto")
        assert result.exit_code == 0, result.output
        assert "1 image (0 without a box), 1 reader" in result.stdout
        assert "there is no agreement" in result.stderr
        assert "kappa" not in result.stdout

    @pytest.mark.parametrize(
        ("name", "text", "message"),
        [
            ("train.csv", "a;b\n1;2\n", "train.csv: columns are separated by ';'"),
            ("x.json", "{", "x.json: no format reads a file that begins with '{'"),
            ("other.csv", "", "other.csv: is empty"),
        ],
    )
    def test_a_bad_table_is_one_sentence(self, tmp_path, name, text, message):
        (tmp_path / name).write_text(text)
        result = run("annotations", tmp_path / name)
        assert result.exit_code == 1
        assert message in result.stderr
        assert result.stderr.count("\n") == 1

    def test_a_folder_without_a_table_is_one_sentence(self, tmp_path):
        result = run("annotations", tmp_path)
        assert result.exit_code == 1
        assert "holds no annotations of a known format" in result.stderr


class TestSplit:
    def test_a_folder_is_divided_anew(self, built, tmp_path):
        (tmp_path / "val.txt").write_text("i04\ni05\n")
        result = run("split", built, "--split", "list", "--val-list", tmp_path / "val.txt", "--group-by", "study")
        assert result.exit_code == 0, result.output
        coco = json.loads((built / "annotations/val_auto.json").read_text())
        assert [image["image_id"] for image in coco["images"]] == ["i04", "i05"]
        assert json.loads((built / "manifest.json").read_text())["parameters"]["val_list"] == "val.txt"
        assert "labels auto" in result.stdout
        assert run("check", built).exit_code == 0

    def test_a_torn_group_is_refused_by_the_groups_of_the_build(self, built, tmp_path):
        (tmp_path / "val.txt").write_text("i04\n")
        result = run("split", built, "--split", "list", "--val-list", tmp_path / "val.txt")
        assert result.exit_code == 1
        assert "1 group stands on both sides of the split" in result.stderr

    @pytest.mark.parametrize(
        ("args", "message"),
        [
            (("--folds", "2", "--fold", "3"), "--fold 3: expected 1 to 2"),
            (("--split", "list"), "--split list and --val-list do not fit"),
            (("--split", "readers", "--train-readers", "R9"), "--train-readers R9: no such reader"),
            (("--split", "sorted"), "--split"),
            (("--val-list", "nowhere.txt", "--split", "list"), "nowhere.txt"),
            (("--join-duplicates", "--allow-duplicates"), "contradict each other"),
        ],
    )
    def test_options_that_make_no_sense_are_usage_errors(self, built, args, message):
        result = run("split", built, *args)
        assert result.exit_code == 2
        assert message in plain(result.stderr)
        assert "Traceback" not in result.output


class TestReportAndCheck:
    def test_the_page_is_written_again(self, built):
        (built / "report.html").unlink()
        result = run("report", built)
        assert result.exit_code == 0, result.output
        assert result.stdout.strip() == str(built / "report.html")
        assert (built / "report.html").read_text(encoding="utf-8").startswith("<!doctype html>")

    def test_problems_are_listed_and_make_the_exit_code(self, built):
        image = built / "images/i00.png"
        content = image.read_bytes()
        image.write_bytes(b"x")
        result = run("check", built)
        image.write_bytes(content)
        assert result.exit_code == 1
        assert result.stdout.strip() == "images/i00.png: cannot be decoded."
        assert "1 problem in" in result.stderr
        assert "has no problems" in run("check", built).stderr

    @pytest.mark.parametrize("command", ["split", "report"])
    def test_a_folder_that_is_not_finished_is_refused(self, tmp_path, command):
        result = run(command, tmp_path)
        assert result.exit_code == 1
        assert "the folder is not finished" in result.stderr
        assert "the folder is not finished" in run("check", tmp_path).stdout


def test_help_needs_nothing_heavy():
    code = (
        "import sys\n"
        "from typer.testing import CliRunner\n"
        "from cxr_mmdet.cli.prepare_data import app\n"
        "for command in ('annotations', 'split', 'report', 'check'):\n"
        "    assert CliRunner().invoke(app, [command, '--help']).exit_code == 0\n"
        "heavy = {'numpy', 'pandas', 'cv2', 'torch', 'scipy', 'sklearn', 'jinja2', 'joblib'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_regions_to_ignore_are_no_boxes_of_a_table(tmp_path):
    box = {"image_id": 1, "category_id": 1, "bbox": [0, 0, 5, 5]}
    coco = {
        "images": [{"id": number, "file_name": f"{number}.png"} for number in (1, 2)],
        "annotations": [
            {"id": 1, **box},
            {"id": 2, **box, "bbox": [9, 9, 5, 5], "iscrowd": 1},
            {"id": 3, **box, "image_id": 2, "ignore": 1},
        ],
        "categories": [{"id": 1, "name": "ILD"}],
    }
    (tmp_path / "table.json").write_text(json.dumps(coco))
    out = tmp_path / "fused.csv"
    result = run("annotations", tmp_path / "table.json", "--labels", "auto", "--out", out)
    assert result.exit_code == 0, result.output
    assert "2 images (1 without a box)" in result.stdout
    assert len(pd.read_csv(out)) == 1
