"""``config``: recipes listed, shown as they resolve, and copied for a user's own."""

from pathlib import Path

import pytest
from mmengine.config import Config
from typer.testing import CliRunner

from cxr_mmdet.cli import config
from cxr_mmdet.engine.config import load_config
from cxr_mmdet.errors import ConfigError
from cxr_mmdet.recipes import config_names

TINY = [
    "model.backbone.base_channels=8",
    "model.backbone.stem_channels=8",
    "model.neck.in_channels=[16,32,64]",
    "test_dataloader.dataset.pipeline.2.scale=(64,64)",
]


def run(*arguments: object, code: int = 0):
    result = CliRunner().invoke(config.app, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    return result


def test_every_recipe_is_listed_with_a_sentence():
    lines = run("list").stdout.splitlines()
    assert [line.split()[0] for line in lines] == config_names()
    assert all(line.endswith(".") and len(line.split(maxsplit=1)[1]) > 20 for line in lines)


def test_show_prints_a_config_that_trains_the_same(prepared_folder, tmp_path):
    root = prepared_folder(labels=("A", "B"), name="auto")
    shown = run("show", "faster_rcnn_small", "--data-root", root, "--load-from", "phantom", "--with", "ema").stdout
    path = tmp_path / "shown.py"
    path.write_text(shown[shown.index("auto_scale_lr") :])
    expected = load_config("faster_rcnn_small", data_root=root, load_from="phantom", switches=["ema"])
    assert Config.fromfile(path).to_dict() == expected.to_dict()
    assert "num_classes=2" in shown


def test_cost_is_printed():
    shown = run("show", "retina_small", "--cost", "--cfg-options", "classes=A,B", *TINY).stdout
    assert "64 x 64 px" in shown
    lines = dict(line.split(maxsplit=1) for line in shown.splitlines() if not line.startswith("Could"))
    parameters, multiply_adds = (float(lines[name].split()[0]) for name in ("parameters", "multiply-adds"))
    assert lines["classes"] == "2"
    assert 0.5 < parameters < 2
    assert 0.01 < multiply_adds < 1


@pytest.mark.parametrize("name", ["retina_5cls", "gfl_lungs", "retina_phantom_14cls"])
def test_a_copy_is_the_recipe_from_any_folder(tmp_path, name):
    path = tmp_path / "far" / "mine.py"
    run("copy", name, path)
    assert "cxr::" in path.read_text()
    assert str(Path.cwd()) not in path.read_text()
    assert load_config(str(path), work_dir="w").to_dict() == load_config(name, work_dir="w").to_dict()


def test_a_copy_does_not_overwrite(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("mine")
    assert "exists; pass --force" in run("copy", "atss", path, code=2).stderr
    assert path.read_text() == "mine"
    run("copy", "atss", path, "--force")
    assert "no such config" in run("copy", "atsss", tmp_path / "x.py", code=2).stderr
    assert "ends in .py" in run("copy", "atss", tmp_path / "x.txt", code=2).stderr


def test_a_copy_onto_itself_is_refused_and_a_path_with_spaces_is_quoted(tmp_path):
    path = tmp_path / "of mine" / "my own.py"
    assert run("copy", "atss", path).stderr.endswith(f"train it by tools/train.py '{path}'\n")
    assert "is read by this command" in run("copy", path, path, "--force", code=2).stderr


class TestInheritanceByName:
    def test_through_a_config_of_ones_own(self, tmp_path):
        (tmp_path / "below").mkdir()
        (tmp_path / "below" / "mine.py").write_text('_base_ = "cxr::retina_5cls"\ntrain_cfg = dict(max_iters=7)\n')
        (tmp_path / "mine.py").write_text('_base_ = ["below/mine.py"]\nclasses = ("A", "B")\nload_from = None\n')
        loaded = load_config(str(tmp_path / "mine.py"))
        assert (loaded.train_cfg.max_iters, loaded.model.bbox_head.num_classes) == (7, 2)
        assert loaded.work_dir == "work_dirs/mine"
        assert loaded.filename == str(tmp_path / "mine.py")

    def test_a_recipe_without_its_prefix(self, tmp_path):
        (tmp_path / "mine.py").write_text('_base_ = "retina_5cls"\n')
        with pytest.raises(ConfigError, match=r'no such base retina_5cls; inherit .* "cxr::retina_5cls"'):
            load_config(str(tmp_path / "mine.py"))

    def test_a_name_that_is_no_recipe(self, tmp_path):
        (tmp_path / "mine.py").write_text('_base_ = "cxr::retina_5cl"\n')
        with pytest.raises(ConfigError, match=r"retina_5cl: no such config; .*retina_5cls"):
            load_config(str(tmp_path / "mine.py"))
