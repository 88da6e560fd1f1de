"""Remedies that exist where the reader is."""

import pickle
import re

import pytest
import typer

from cxr_mmdet import commands
from cxr_mmdet.cli.app import CxrTyper
from cxr_mmdet.commands import command, name_commands
from cxr_mmdet.errors import DatasetError, UsageError
from cxr_mmdet.structures.coco import read_coco


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    (tmp_path / "repo/tools").mkdir(parents=True)
    (tmp_path / "repo/tools/train.py").touch()
    (tmp_path / "repo/tools/prepare_data.py").touch()
    monkeypatch.chdir(tmp_path / "repo")
    return tmp_path / "repo"


@pytest.fixture
def wheel(tmp_path, monkeypatch):
    """The package as a wheel installs it: nothing lies beside it."""
    monkeypatch.setattr(commands, "PACKAGE", tmp_path / "site-packages/cxr_mmdet")


def test_a_checkout_has_launchers_and_a_wheel_has_cxr(checkout, tmp_path, monkeypatch):
    assert command("train", checkout) == "tools/train.py"
    assert command("train", tmp_path / "site-packages") == "cxr train"
    monkeypatch.chdir(tmp_path)
    assert command("train", checkout) == "repo/tools/train.py"
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert command("train", checkout) == str(checkout / "tools/train.py")


def test_torchrun_is_told_that_cxr_is_a_program(checkout, tmp_path):
    text = "start as torchrun --nproc_per_node=N tools/train.py CONFIG"
    assert name_commands(text, checkout) == text
    expected = "start as torchrun --nproc_per_node=N --no-python cxr train CONFIG"
    assert name_commands(text, tmp_path / "site-packages") == expected


def test_errors_and_help_of_a_wheel_name_no_launcher(wheel):
    error = UsageError("x: no such file; build it with tools/prepare_data.py build --force.")
    assert str(error) == "x: no such file; build it with cxr prepare_data build --force."
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    app = CxrTyper()

    @app.command()
    def run(model: str = typer.Option("", help="As tools/export.py writes it.")) -> None:
        """Score it by tools/evaluate.py run."""

    built = typer.main.get_command(app)
    assert built.help == "Score it by cxr evaluate run."
    assert built.params[0].help == "As cxr export writes it."


def test_each_launcher_that_the_package_names_is_one():
    from cxr_mmdet.cli.main import TOOLS

    texts = [path.read_text("utf-8") for path in commands.PACKAGE.rglob("*.py")]
    assert {name for text in texts for name in re.findall(r"tools/([a-z_]+)\.py", text)} <= set(TOOLS)


def test_a_folder_of_other_labels_names_those_it_holds(tmp_path, wheel):
    for name in ("train_14", "val_14", "train_mine"):
        (tmp_path / "prepared/annotations").mkdir(parents=True, exist_ok=True)
        (tmp_path / f"prepared/annotations/{name}.json").touch()
    with pytest.raises(DatasetError, match=r"prepared holds the label sets 14, mine, not 5; choose a recipe for one"):
        read_coco(tmp_path / "prepared/annotations/train_5.json")
    with pytest.raises(DatasetError, match=r"no such file; make a prepared folder with cxr prepare_data build SRC OUT"):
        read_coco(tmp_path / "nowhere/annotations/train_5.json")
