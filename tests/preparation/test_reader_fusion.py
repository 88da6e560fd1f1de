"""``--fusion readers``: soft scores in the COCO files, parameters that are kept, reused and refused."""

import json

import pytest
from conftest import write_reader_source
from typer.testing import CliRunner

from cxr_mmdet.cli.prepare_data import app
from cxr_mmdet.preparation.build import BuildOptions, build_dataset
from cxr_mmdet.structures.coco import read_coco
from cxr_mmdet.structures.enums import ReaderFusion

READERS = BuildOptions(fusion=ReaderFusion.READERS, labels=("14", "5"))


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("readers")
    write_reader_source(folder / "src")
    build_dataset(folder / "src", folder / "out", READERS)
    return folder


def boxes(folder, name="train_14"):
    return read_coco(folder / f"annotations/{name}.json")["annotations"]


def test_boxes_have_a_score_beside_their_votes(built):
    found = boxes(built / "out")
    assert all(0 < box["score"] < 1 for box in found)
    assert all(len(box["corner_spread"]) == 4 and 0 < min(box["corner_spread"]) < 1 for box in found)
    mean = {votes: [box["score"] for box in found if box["votes"] == votes] for votes in (1, 3)}
    assert sum(mean[1]) / len(mean[1]) < sum(mean[3]) / len(mean[3])
    manifest = json.loads((built / "out/manifest.json").read_text())
    assert manifest["parameters"]["fusion"] == "readers"
    rows = manifest["label_sets"]["14"]["reliability"]
    assert {row["reader"] for row in rows} == {"R1", "R2", "R3"}
    assert all(row["sensitivity"]["low"] <= row["sensitivity"]["high"] for row in rows)


def test_the_report_shows_who_sees_what(built):
    page = (built / "out/report.html").read_text()
    assert "Who sees what" in page
    assert "Size of boxes" in page


def test_other_fusions_write_no_score(built, tmp_path):
    build_dataset(built / "src", tmp_path / "out", BuildOptions())
    assert not any({"score", "corner_spread"} & set(box) for box in boxes(tmp_path / "out"))


def test_another_split_keeps_the_parameters(built, tmp_path):
    import shutil

    shutil.copytree(built / "out", tmp_path / "out")
    before = (tmp_path / "out/annotations/readers_14.json").read_bytes()
    result = CliRunner().invoke(app, ["split", str(tmp_path / "out"), "--seed", "3"])
    assert result.exit_code == 0, result.output
    assert (tmp_path / "out/annotations/readers_14.json").read_bytes() == before


def test_parameters_of_another_folder_give_the_same_scores(built, tmp_path):
    arguments = ["build", str(built / "src"), str(tmp_path / "out"), "--fusion", "readers", "--reader-model"]
    result = CliRunner().invoke(app, [*arguments, str(built / "out/annotations/readers_14.json")])
    assert result.exit_code == 0, result.output
    assert boxes(tmp_path / "out") == boxes(built / "out")


def test_parameters_of_another_label_set_are_one_sentence(built, tmp_path):
    parameters = json.loads((built / "out/annotations/readers_14.json").read_text())
    parameters["reliability"]["labels"][0] = "Something else"
    (tmp_path / "other.json").write_text(json.dumps(parameters))
    arguments = ["build", str(built / "src"), str(tmp_path / "out"), "--fusion", "readers", "--reader-model"]
    result = CliRunner().invoke(app, [*arguments, str(tmp_path / "other.json")])
    assert result.exit_code == 2
    assert "not of Cardiomegaly" in result.stderr
    result = CliRunner().invoke(app, [*arguments[:3], "--reader-model", str(tmp_path / "other.json")])
    assert result.exit_code == 2
    assert "expected --fusion readers" in result.stderr


def test_a_table_of_one_reader_is_fused_as_before_with_a_note(tmp_path):
    table = write_reader_source(tmp_path / "src") / "train.csv"
    lines = table.read_text().splitlines()
    table.write_text("\n".join([lines[0], *(line for line in lines if ",R1," in line)]))
    summary = build_dataset(tmp_path / "src", tmp_path / "out", BuildOptions(fusion=ReaderFusion.READERS))
    assert any("no two readers share an image" in note for note in summary.notes)
    assert all("score" not in box for box in boxes(tmp_path / "out"))
    assert not (tmp_path / "out/annotations/readers_14.json").exists()


def test_a_class_that_one_reader_alone_uses_is_told(tmp_path):
    table = write_reader_source(tmp_path / "src") / "train.csv"
    table.write_text(table.read_text() + "\ni02,Pneumothorax,12,R2,1,1,20,20,p1")
    summary = build_dataset(tmp_path / "src", tmp_path / "out", BuildOptions(fusion=ReaderFusion.READERS))
    assert any("only R2 marked 'Pneumothorax'" in note for note in summary.notes)


def test_the_table_alone_can_be_fused_so(built, tmp_path):
    arguments = ["annotations", str(built / "src"), "--fusion", "readers", "--out", str(tmp_path / "fused.csv")]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "score" in (tmp_path / "fused.csv").read_text().splitlines()[0]
    result = CliRunner().invoke(app, ["annotations", str(built / "src"), "--reliability"], env={"COLUMNS": "120"})
    assert result.exit_code == 0, result.output
    assert "Sensitivity of the readers" in result.stdout


def test_a_table_of_readers_who_share_no_image_is_surveyed_all_the_same(tmp_path):
    table = tmp_path / "table.csv"
    rows = ["image_id,class_name,rad_id,x_min,y_min,x_max,y_max", "a,ILD,R1,10,10,60,60", "b,ILD,R2,10,10,60,60"]
    table.write_text("\n".join(rows))
    for options in (["--reliability"], ["--fusion", "readers"], ["--fusion", "readers", "--reliability"]):
        result = CliRunner().invoke(app, ["annotations", str(table), *options])
        assert result.exit_code == 0, result.output
        assert "no two readers share an image" in result.stderr
