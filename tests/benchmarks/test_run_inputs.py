import json
import shutil

import pytest
import torch

from benchmarks import quality
from benchmarks.contestant import Contestant
from benchmarks.folds import Part
from benchmarks.quality import run_quality
from cxr_mmdet.engine import phantom_start
from cxr_mmdet.errors import UsageError
from cxr_mmdet.structures.coco import read_coco, write_coco


def inputs_of(name, root, cfg_options=()):
    training = quality._Training(Part(root), root / "out", cfg_options, 1, None)
    return training.inputs(Contestant.parse(name))


def other(before, after):
    return {kind for kind in before if before[kind] != after[kind]}


def test_inputs_are_the_same_wherever_the_folder_lies(prepared_folder, tmp_path):
    root = prepared_folder()
    shutil.copytree(root, tmp_path / "copy")
    assert inputs_of("retina_small+ema", root) == inputs_of("retina_small+ema", tmp_path / "copy")


def change_box(root, split):
    path = root / f"annotations/{split}_5.json"
    coco = read_coco(path)
    coco["annotations"][0]["bbox"][0] += 0.5
    write_coco(path, coco)


def change_image(root, split):
    path = root / "images" / read_coco(root / f"annotations/{split}_5.json")["images"][-1]["file_name"]
    path.write_bytes(path.read_bytes() + b" ")


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("change", [change_box, change_image])
def test_another_box_or_pixel_is_other_data(prepared_folder, change, split):
    root = prepared_folder()
    before = inputs_of("retina_small", root)
    change(root, split)
    assert other(before, inputs_of("retina_small", root)) == {"data"}


def test_another_file_of_one_name_is_another_start(prepared_folder, tmp_path):
    root, file = prepared_folder(), tmp_path / "start.pth"
    torch.save({"state_dict": {"a": torch.zeros(2)}}, file)
    name = f"retina_small+from:{file}"
    before = inputs_of(name, root)
    torch.save({"state_dict": {"a": torch.ones(2)}}, file)
    assert other(before, inputs_of(name, root)) == {"start"}
    with pytest.raises(UsageError, match=r"nosuch\.pth is no file; expected weights"):
        inputs_of("retina_small+from:nosuch.pth", root)


def test_phantom_weights_that_this_machine_made_are_another_start(prepared_folder, tmp_path, monkeypatch):
    root = prepared_folder()
    monkeypatch.setattr(phantom_start, "own_starts", lambda: tmp_path / "own")
    before = inputs_of("retina_small+from:phantom", root)
    (own,) = (phantom_start.PACKAGE / "weights").glob("retina_small.safetensors")
    (tmp_path / "own").mkdir()
    weights = own.read_bytes()
    (tmp_path / "own" / "retina_small.safetensors").write_bytes(weights[:-1] + bytes([weights[-1] ^ 1]))
    assert other(before, inputs_of("retina_small+from:phantom", root)) == {"start"}


def test_a_switch_file_that_was_edited_is_another_recipe(prepared_folder, tmp_path):
    root, switch = prepared_folder(), tmp_path / "mine.py"
    switch.write_text("optim_wrapper = dict(optimizer=dict(lr=1e-3))\n")
    name = f"retina_small+{switch}"
    before = inputs_of(name, root)
    switch.write_text("optim_wrapper = dict(optimizer=dict(lr=1e-4))\n")
    assert other(before, inputs_of(name, root)) == {"recipe"}


def test_a_run_of_an_earlier_version_is_refused(prepared_folder, tmp_path):
    """Until 0.5 runs were told apart by the contestant's name alone."""
    root, out = prepared_folder(), tmp_path / "out"
    (out / "retina_small/seed_0").mkdir(parents=True)
    run = {"contestant": "retina_small", "seed": 0, "iterations": 3, "cpu_s": 1.0, "curve": [[1.0, 0.5]]}
    (out / "retina_small/seed_0/run.json").write_text(json.dumps(run | {"ann_file": "annotations/val_5.json"}))
    with pytest.raises(UsageError, match="earlier version trained this, and did not note on what; name another folder"):
        run_quality(
            [Contestant.parse("retina_small")], [Part(root)], out, minutes=1, iterations=3, seeds=[0], threads=1
        )
