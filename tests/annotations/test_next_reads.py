"""Which images to read next: those whose consensus would change, learned by hiding readers."""

import numpy as np
import pytest
from conftest import write_reader_source
from test_readers import CLASSES, simulated
from typer.testing import CliRunner

from cxr_mmdet.annotations.marks import Marks
from cxr_mmdet.annotations.next_reads import changes_of, next_reads
from cxr_mmdet.annotations.reader_consensus import fit_readers
from cxr_mmdet.cli.prepare_data import app
from cxr_mmdet.preparation.build import BuildOptions, build_dataset
from cxr_mmdet.structures.enums import ReaderFusion


@pytest.fixture(scope="module")
def rows():
    return simulated(images=300, seed=2)


@pytest.fixture(scope="module")
def model(rows):
    return fit_readers(rows, CLASSES, alternatives=False)


def test_images_without_a_box_come_last(rows, model):
    chosen = next_reads(rows, model, 300)
    assert (chosen["expected_change"].diff().dropna() <= 0).all()
    empty = chosen["boxes"] == 0
    assert chosen.loc[empty, "expected_change"].max() < chosen.loc[~empty, "expected_change"].median()
    assert (chosen["readers"] == 3).all()


def test_no_order_of_rows_matters(rows, model):
    one, other = (next_reads(each, model, 20) for each in (rows, rows.iloc[::-1]))
    assert one.equals(other)


def test_nothing_changes_between_equal_readings(rows, model):
    marks = Marks.of(rows, CLASSES, model.reliability.readers)
    assert changes_of(model, marks, marks, np.arange(len(marks.looked))) == pytest.approx(0)


def test_the_command_lists_and_writes(tmp_path):
    write_reader_source(tmp_path / "src")
    out = tmp_path / "out"
    build_dataset(tmp_path / "src", out, BuildOptions(fusion=ReaderFusion.READERS))
    arguments = ["next-reads", str(out), "--n", "4", "--out", str(tmp_path / "next.csv")]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert len((tmp_path / "next.csv").read_text().splitlines()) == 5
    assert CliRunner().invoke(app, arguments).exit_code == 2
    result = CliRunner().invoke(app, [*arguments[:-1], str(out / "annotations/readers.csv"), "--force"])
    assert "is read by this command and would be lost" in result.stderr
    result = CliRunner().invoke(app, [*arguments, "--force", "--labels", "none"])
    assert result.exit_code == 2
    assert "has the label sets 14" in result.stderr
    (out / "annotations/readers_14.json").unlink()
    assert CliRunner().invoke(app, [*arguments, "--force"]).exit_code == 0


def test_a_folder_of_one_reader_is_one_sentence(tmp_path):
    table = write_reader_source(tmp_path / "src") / "train.csv"
    lines = table.read_text().splitlines()
    table.write_text("\n".join([lines[0], *(line for line in lines if ",R1," in line)]))
    build_dataset(tmp_path / "src", tmp_path / "out", BuildOptions())
    result = CliRunner().invoke(app, ["next-reads", str(tmp_path / "out")])
    assert result.exit_code == 1
    assert "one reader read everything" in result.stderr
