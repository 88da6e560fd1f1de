"""Starting weights from phantoms: which file load_from = "phantom" takes, how exact it is, and making one."""

import hashlib
import json
import pickle
import re
from pathlib import Path

import pytest
import torch
from mmdet.registry import MODELS
from mmengine.registry import init_default_scope
from mmengine.runner.checkpoint import CheckpointLoader
from safetensors.torch import load_file, save_file
from training_runs import SMALL_RETINA, TINY_TEST, error_of, train_here
from typer.testing import CliRunner

from cxr_mmdet.cli import pretrain
from cxr_mmdet.engine import phantom_start, pretraining
from cxr_mmdet.engine.checkpoint_file import SCALES, read_safetensors
from cxr_mmdet.engine.config import load_config
from cxr_mmdet.engine.phantom_start import PHANTOM, resolve_start, write_start
from cxr_mmdet.errors import CheckpointError
from cxr_mmdet.files import sole_use
from cxr_mmdet.phantom.organs import ORGANS
from cxr_mmdet.preparation import phantoms
from cxr_mmdet.structures.labels import LABELS_14

CLASSES = ["Nodule/Mass", "Left lung"]
TINY_PRETRAINING = [
    *SMALL_RETINA,
    *TINY_TEST,
    "train_dataloader.dataset.pipeline.4.scales=[(64,64)]",
    "train_dataloader.num_workers=0",
    "val_dataloader.num_workers=0",
]


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """Return the folders of the package's starts and of this user's, both empty."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(phantom_start, "PACKAGE", tmp_path / "package")
    return tmp_path / "package/weights", phantom_start.own_starts()


def make_start(out, recipe="retina_small", **weights):
    checkpoint = out.parent.parent / "trained.pth"
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"state_dict": weights, "meta": {"dataset_meta": {"classes": CLASSES}}}, checkpoint)
    write_start(checkpoint, out, load_config(recipe), "# {megabytes} MB, {sha256}, {}\n")
    return out


def start_of(recipe):
    config = load_config(recipe, load_from=PHANTOM)
    resolve_start(config)
    return config.load_from


def test_a_recipes_own_file_comes_first_then_those_made_on_this_machine(folders):
    shipped, cached = (folder / "retina_small.safetensors" for folder in folders)
    make_start(shipped)
    for recipe in ("retina_small", "gfl_lungs", "retina_lungs", "faster_rcnn_small"):
        assert start_of(recipe) == str(shipped)
    lungs = make_start(folders[1] / "gfl_lungs.safetensors")
    assert start_of("retina_small") == str(shipped)
    assert start_of("faster_rcnn_small") == str(lungs)
    make_start(cached)
    assert start_of("retina_small") == str(cached)
    assert start_of("gfl_lungs") == str(lungs)
    assert "# 0.0 MB" in shipped.with_suffix(".md").read_text()


def test_a_user_without_a_home_starts_from_the_packages_file(folders, monkeypatch):
    def homeless():
        raise RuntimeError("Could not determine home directory.")

    shipped = make_start(folders[0] / "a.safetensors")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", homeless)
    assert start_of("retina_small") == str(shipped)
    result = CliRunner().invoke(pretrain.app, [])
    assert "no home folder for a cache; name a folder by XDG_CACHE_HOME" in error_of(result.stderr)


def test_none_for_this_backbone_names_the_command(folders):
    make_start(folders[0] / "a.safetensors")
    with pytest.raises(
        CheckpointError, match=r"^phantom: .* backbone of rtmdet_s; make them .*pretrain(\.py)? rtmdet_s"
    ):
        start_of("rtmdet_s")


def test_the_file_that_ships_fits_its_recipe_and_its_card_names_it():
    path = Path(start_of("retina_small"))
    assert path.parent == phantom_start.PACKAGE / "weights"
    checkpoint = read_safetensors(path)
    classes = checkpoint["meta"]["dataset_meta"]["classes"]
    assert classes == [*LABELS_14, *ORGANS]
    init_default_scope("mmdet")
    model = MODELS.build(load_config("retina_small", cfg_options=[f"classes={','.join(classes)}"]).model)
    model.load_state_dict(checkpoint["state_dict"], strict=True)
    assert hashlib.sha256(path.read_bytes()).hexdigest() in path.with_suffix(".md").read_text()
    assert path.stat().st_size < 6e6


def test_other_starts_stay_as_they_are(folders):
    config = load_config("retina_small", load_from="elsewhere.pth")
    resolve_start(config)
    assert config.load_from == "elsewhere.pth"


def test_kernels_are_near_and_everything_else_is_exact(folders):
    torch.manual_seed(0)
    kernel = torch.randn(6, 4, 3, 3) * torch.logspace(-6, 3, 6).view(-1, 1, 1, 1)
    kernel[2] = 0
    norm, steps = torch.rand(6) * 1e-6, torch.tensor(70000)
    path = make_start(folders[1] / "a.safetensors", k=kernel, n=norm, s=steps)
    checkpoint = CheckpointLoader.load_checkpoint(str(path), "cpu", None)
    read = checkpoint["state_dict"]
    assert checkpoint["meta"]["dataset_meta"]["classes"] == CLASSES
    step = kernel.flatten(1).abs().amax(dim=1) / 127
    assert ((read["k"] - kernel).flatten(1).abs().amax(dim=1) <= 0.501 * step).all()
    assert torch.equal(read["n"], norm)
    assert torch.equal(read["s"], steps)
    assert read.keys() == {"k", "n", "s"}


class TestBadFiles:
    def test_a_pickle_in_its_place_is_not_run(self, folders, tmp_path):
        class Evil:
            def __reduce__(self):
                return open, (str(tmp_path / "ran"), "w")

        folders[1].mkdir(parents=True)
        path = folders[1] / "a.safetensors"
        path.write_bytes(pickle.dumps(Evil()))
        with pytest.raises(CheckpointError, match=r"a\.safetensors: is not a readable safetensors file .*remove it"):
            start_of("retina_small")
        with pytest.raises(CheckpointError, match=r"is not a readable checkpoint|would run code"):
            CheckpointLoader.load_checkpoint(str(path), "cpu", None)
        assert not (tmp_path / "ran").exists()

    def test_cut_short_or_not_a_number(self, folders):
        path = make_start(folders[1] / "a.safetensors", k=torch.ones(2, 2))
        content = path.read_bytes()
        stored = load_file(path)
        save_file(stored | {"k" + SCALES: torch.tensor([1.0, float("nan")])}, path)
        with pytest.raises(CheckpointError, match=r"not finite|NaN"):
            read_safetensors(path)
        save_file(stored | {"k" + SCALES: torch.ones(3)}, path)
        with pytest.raises(CheckpointError, match="is not a readable safetensors file"):
            read_safetensors(path)
        path.write_bytes(content[:-3])
        with pytest.raises(CheckpointError, match="is not a readable safetensors file"):
            read_safetensors(path)

    @pytest.mark.parametrize("classes", ["5", "cat,dog", '{"a": 1}', "[1, 2]"])
    def test_classes_that_are_no_names(self, tmp_path, classes):
        """``list(5)`` was a traceback, and "cat,dog" was called damage."""
        path = tmp_path / "a.safetensors"
        save_file({"k": torch.ones(2)}, path, {"classes": classes})
        with pytest.raises(CheckpointError, match=r"a\.safetensors: its metadata give the classes as .* JSON list"):
            read_safetensors(path)


@pytest.mark.slow
def test_pretrain_writes_a_start_that_training_takes_by_class_name(folders, prepared_folder, tmp_path, monkeypatch):
    def run(*arguments, code=0):
        options = ["--images", "20", "--size", "128", *arguments, "--cfg-options", *TINY_PRETRAINING]
        result = CliRunner().invoke(pretrain.app, options)
        assert result.exit_code == code, result.output
        return result

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(pretraining, "write_start", full)
        run("--iterations", "2", code=1)
    (folders[1] / "retina_small.safetensors").touch()  # an older one, which the unfinished run is to replace
    assert "with other options (iterations 2); go on" in run("--iterations", "3", code=2).stderr
    other = tmp_path / "other.safetensors"  # a file that the unfinished run has no part in
    other.touch()
    assert f"with other options (out {folders[1]}" in run("--iterations", "2", "--out", str(other), code=2).stderr
    monkeypatch.setattr(phantoms, "write_phantoms", None)
    assert "with other options (seed 11); go on" in run("--iterations", "2", "--seed", "12", code=2).stderr
    # What was drawn and trained is kept.
    run("--iterations", "2")
    (path,) = folders[1].glob("*.safetensors")
    assert "exists; pass --force" in run(code=2).stderr
    assert not (folders[1].parent / "pretraining" / "retina_small").exists()
    card = path.with_suffix(".md").read_text()
    assert "2 iterations of 4 images" in card
    assert "70 % with findings, 60 % at the bedside" in card
    assert "--iterations 2 --cfg-options model.backbone" in card

    root = prepared_folder()
    start = ("--load-from", PHANTOM)
    small = ["train_cfg.max_iters=1", "train_cfg.val_interval=1"]
    said = train_here(root, tmp_path / "run", *small, more=start)
    assert f"Starting weights {path}" in said
    # Of the five only Infiltration is not among these twenty phantoms.
    assert re.search(r"taken over by class +2  Aortic enlargement, Cardiomegaly, ILD, Nodule/Mass\n", said)
    wide = train_here(
        root,
        tmp_path / "wide",
        "model.backbone.base_channels=16",
        "model.neck.in_channels=[32,64,128]",
        more=start,
        code=1,
    )
    assert "has no starting weights for the backbone of retina_phantom" in error_of(wide)


def test_nothing_is_drawn_for_what_cannot_be_trained(folders, tmp_path, monkeypatch):
    def message(*arguments):
        result = CliRunner().invoke(pretrain.app, list(arguments))
        assert result.exit_code != 0
        return error_of(result.stderr)

    assert "retina_smal: no such config" in message("retina_smal")
    assert "pass one of them" in message("--iterations", "3", "--minutes", "0")
    assert "--minutes 0: expected a number above 0" in message("--minutes", "0")
    assert "--minutes nan: expected a finite number" in message("--minutes", "nan")
    assert "start.md: weights are written as safetensors" in message("--out", str(tmp_path / "start.md"))
    assert "nothing reads the key no" in message("--cfg-options", "no=1")
    assert not folders[1].parent.exists()
    with sole_use(folders[1].parent / "pretraining", "name another"):
        assert "is in use by another process; wait for it, or name another folder" in message()
    (tmp_path / "file").touch()
    assert "file: cannot be made (File exists); name another file by --out" in message(
        "--out", str(tmp_path / "file" / "a.safetensors")
    )
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert "cannot be made (Not a directory); name another folder for the cache by XDG_CACHE_HOME" in message()


def test_minutes_become_iterations_by_what_an_iteration_takes(folders, tmp_path, monkeypatch):
    monkeypatch.setattr(pretraining, "_seconds_per_iteration", lambda *_: 0.5)
    options = pretraining.PretrainingOptions()
    begun = pretraining._begin(tmp_path, options, 2, tmp_path, tmp_path / "a.safetensors")
    assert begun.iterations == 240
    assert json.loads((tmp_path / "pretraining.json").read_text())["iterations"] == 240
    # It goes on with what was settled.
    assert pretraining._unfinished(tmp_path, options, 3, tmp_path / "a.safetensors") == begun
