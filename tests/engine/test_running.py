"""Whole runs of the tools as users start them, small: kill and resume, several processes, bad input."""

from __future__ import annotations

import io
import json
import signal
import sys
from collections import OrderedDict
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest
import torch
import torchvision
from mmdet.visualization import DetLocalVisualizer
from mmengine.registry import VISBACKENDS
from mmengine.visualization import LocalVisBackend
from training_runs import TINY, TINY_ANY, TINY_TEST, ForkedTool, differing, run, train_here, weights
from typer.testing import CliRunner

from cxr_mmdet.cli import test, train
from cxr_mmdet.engine.running import find_checkpoint
from cxr_mmdet.errors import CheckpointError
from cxr_mmdet.recipes import config_folder
from cxr_mmdet.structures.coco import read_coco, write_coco

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import PreparedFolder

# A Faster R-CNN whose RoI sampling draws at random in the training process, with ResNet-18 in place of 50.
FASTER = [
    *TINY_ANY,
    "model.backbone.depth=18",
    "model.backbone.base_channels=16",
    "model.backbone.stem_channels=16",
    "model.neck.in_channels=[32,64,128]",
    "model.roi_head.bbox_head.fc_out_channels=64",
    "model.rpn_head.feat_channels=32",
    "model.neck.out_channels=32",
    "model.rpn_head.in_channels=32",
    "model.roi_head.bbox_roi_extractor.out_channels=32",
    "model.roi_head.bbox_head.in_channels=32",
]
# Repeat factors (of classes that the small folder holds) and a share of normal studies, beside the minority copies.
RARE = [
    *TINY,
    "train_dataloader.sampler.repeat_threshold=0.5",
    "train_dataloader.sampler.repeat_classes=ILD,Nodule/Mass",
    "train_dataloader.sampler.normal_share=0.25",
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "options", "start"),
    [
        ("retina_phantom", TINY, []),
        ("faster_rcnn_5cls", FASTER, ["--load-from", "none", "--with", "gate"]),
        ("retina_phantom", RARE, []),
        ("retina_phantom", TINY, ["--amp", "--with", "ema,early_stopping,clip_gradients"]),
    ],
    ids=[
        "RetinaNet",
        "Faster R-CNN with a gate, minority copies",
        "RetinaNet, weighed draws",
        "averaged weights, mixed precision",
    ],
)
def test_killed_and_resumed_ends_with_the_weights_of_an_uninterrupted_run(
    prepared_folder: PreparedFolder, tmp_path: Path, config, options, start
):
    root = prepared_folder()
    options = [*options, "train_cfg.max_iters=6", "train_cfg.val_interval=3"]
    arguments = ["train", config, "--data-root", str(root), *start]
    run(*arguments, "--work-dir", "whole", cwd=tmp_path, options=options)

    victim = ForkedTool(*arguments, "--work-dir", "killed", cwd=tmp_path, options=options, kill_in=5)
    assert victim.wait() == -signal.SIGKILL
    assert (tmp_path / "killed" / "last_checkpoint").read_text().endswith("iter_4.pth")
    assert not (tmp_path / "killed" / "iter_6.pth").exists()
    stdout, _ = run(*arguments, "--work-dir", "killed", "--resume", cwd=tmp_path, options=options)
    assert "curves" in stdout

    for key in ("state_dict", "ema_state_dict") if "--amp" in start else ("state_dict",):
        assert differing(*(weights(tmp_path / name / "iter_6.pth", key) for name in ("whole", "killed"))) == []


@pytest.mark.slow
def test_two_processes_train_a_gated_detector_and_score_like_one(prepared_folder: PreparedFolder, tmp_path: Path):
    root = prepared_folder(val=5)  # odd, so that one process pads its share

    def distributed(tool: str, *arguments: str) -> str:
        stdout, stderr = run(tool, *arguments, cwd=tmp_path, options=options, processes=2)
        assert stderr.count("Training draws from") == (tool == "train")  # one process prints
        return stdout

    options = [*TINY, "train_cfg.max_iters=4", "train_cfg.val_interval=4", "model.test_cfg.score_thr=0.0"]
    distributed("train", "retina_phantom", "--with", "gate", "--data-root", str(root), "--work-dir", "run")
    assert (tmp_path / "run" / "iter_4.pth").is_file()

    arguments = [
        "retina_phantom",
        "run/iter_4.pth",
        "--with",
        "gate",
        "--data-root",
        str(root),
        "--work-dir",
        "run",
        "--out",
    ]
    table = distributed("test", *arguments, "two")
    assert table.count("mean of findings") == 1  # one process prints
    run("test", *arguments, "one", cwd=tmp_path, options=options)
    one, two = (json.loads((tmp_path / name / "detections.json").read_text()) for name in ("one", "two"))
    assert len(one) > 0
    assert one == two
    for name in ("metrics.json", "detections.p_abnormal.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert not (tmp_path / ".dist_test").exists()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a checkpoint of a RetinaNet of 5 classes, just initialised."""
    from cxr_mmdet.engine.config import load_config
    from cxr_mmdet.engine.running import CheckedRunner

    folder = tmp_path_factory.mktemp("trained")
    config = load_config("retina_phantom", work_dir=folder / "run")
    for key in [key for key in config if key.startswith(("train_", "val_", "test_")) or key == "optim_wrapper"]:
        config[key] = None
    config.param_scheduler = None
    runner = CheckedRunner.from_cfg(config)
    torch.save({"state_dict": runner.model.state_dict(), "meta": {}}, folder / "start.pth")
    return folder


def failing(arguments: list[str], cwd: Path, code: int, options: list[str] = TINY) -> str:
    """Return the message of a command that must fail with ``code``, in one sentence and without a traceback."""
    tool, *rest = arguments
    app = {"train": train.app, "test": test.app}[tool]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(cwd)
        result = CliRunner().invoke(app, [*rest, "--cfg-options", *options])
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == code, result.stderr
    assert "Traceback" not in result.stderr
    (message,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    return message


def test_a_logger_that_an_earlier_run_left_writes_to_this_ones_stderr(tmp_path: Path):
    """Two runs of one config within a second share mmengine's logger; the first one's stream may be closed by then."""
    from mmengine.logging import MMLogger

    from cxr_mmdet.engine.running import CheckedRunner

    gone = io.StringIO()
    logger = MMLogger.get_instance("left_over", logger_name="mmengine")
    for handler in logger.handlers:
        handler.stream = gone
    gone.close()
    runner = object.__new__(CheckedRunner)  # as far as it is when it builds its logger
    runner._log_dir, runner._timestamp, runner._experiment_name = str(tmp_path), "now", "left_over"
    built = runner.build_logger()
    assert built is logger
    assert [handler.stream for handler in built.handlers] == [sys.stderr]


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("train_cfg.max_iters=0", "train_cfg.max_iters is 0, expected a whole number of at least 1"),
        ("train_cfg.max_iters=ten", "train_cfg.max_iters is ten, expected a whole number"),
        ("train_cfg.max_iters=2.5", "train_cfg.max_iters is 2.5, expected a whole number"),
        ("train_cfg.val_interval=0", "train_cfg.val_interval is 0"),
        ("train_dataloader.batch_size=0", "train_dataloader.batch_size is 0, expected a whole number of at least 1"),
        ("val_dataloader.num_workers=-1", "val_dataloader.num_workers is -1"),
        ("optim_wrapper.optimizer.lr=high", "optim_wrapper.optimizer.lr is high, expected a learning rate"),
    ],
)
def test_a_number_that_cannot_be(tmp_path: Path, option, words):
    assert words in failing(["train", "retina_phantom"], tmp_path, 2, [*TINY, option])


@VISBACKENDS.register_module()
class BackendWithoutItsPackage(LocalVisBackend):
    """As WandbVisBackend and MLflowVisBackend where their packages are missing."""

    def _init_env(self) -> None:
        raise ImportError("Please run pip install missing")


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("BackendWithoutItsPackage", "needs a package that is not installed (Please run pip install missing)"),
        ("WandDB", "visualizer cannot be built"),
    ],
)
def test_a_back_end_of_the_visualizer_that_cannot_start(tmp_path: Path, monkeypatch, kind, words):
    """Before, a traceback: mmengine imports the package when the back end is first used."""
    monkeypatch.setattr(DetLocalVisualizer, "_instance_dict", OrderedDict())  # else one serves all runs of a process
    path = tmp_path / "mine.py"
    path.write_text(
        f'_base_ = ["{config_folder()}/retina_phantom.py"]\nvisualizer = dict(vis_backends=[dict(type="{kind}")])\n'
    )
    assert words in failing(["train", str(path)], tmp_path, 2)


@pytest.mark.parametrize("option", ["randomness.seed=abc", "log_level=LOUD", "env_cfg.mp_cfg.mp_start_method=jump"])
def test_general_settings_that_do_not_fit(prepared_folder, tmp_path: Path, option):
    """Before, a traceback: mmengine reads these before it builds a part."""
    data = ["--data-root", str(prepared_folder())]
    message = failing(["train", "retina_phantom", *data], tmp_path, 2, [option])
    assert "the config's general settings (seed, log level, environment) do not fit" in message
    assert option.partition("=")[2] in message or "seed" in option


class TestData:
    """Data that cannot be trained or validated on, told before the first iteration."""

    def refused(self, root: Path, tmp_path: Path, *options: str, code: int = 1) -> str:
        message = failing(["train", "retina_phantom", "--data-root", str(root)], tmp_path, code, [*TINY, *options])
        assert not list(tmp_path.rglob("*.pth"))
        return message

    def test_a_validation_split_without_boxes(self, prepared_folder, tmp_path):
        root = without_boxes(prepared_folder(), "val")
        message = self.refused(root, tmp_path)
        assert "val_5.json: holds no box, so that bbox/mAP_50, which picks the best checkpoint, is undefined" in message
        option = "default_hooks.checkpoint.save_best=None"  # as the message says
        assert option in message
        train_here(root, tmp_path / "run", option)

    def test_a_best_checkpoint_by_a_class_without_boxes(self, prepared_folder, tmp_path):
        option = "default_hooks.checkpoint.save_best=bbox/AP_50/Infiltration"
        message = self.refused(prepared_folder(), tmp_path, option)
        assert "val_5.json: holds no box of Infiltration, so that bbox/AP_50/Infiltration" in message

    def test_a_best_checkpoint_by_an_unknown_score(self, prepared_folder, tmp_path):
        message = self.refused(prepared_folder(), tmp_path, "default_hooks.checkpoint.save_best=mAP_50", code=2)
        assert "save_best is mAP_50, no score of that name is computed; did you mean bbox/mAP_50?" in message

    @pytest.mark.parametrize("split", ["train", "val"])
    def test_an_image_of_another_size_than_its_entry(self, prepared_folder, tmp_path, split):
        root = prepared_folder()
        cv2.imwrite(str(root / "images" / f"{split}2.png"), np.zeros((30, 40), np.uint8))
        assert f"{split}2.png: is 40x30 pixels, the COCO file says" in self.refused(root, tmp_path)

    def test_training_on_no_box_at_all(self, prepared_folder, tmp_path):
        message = self.refused(without_boxes(prepared_folder(), "train"), tmp_path)
        assert "train_5.json: none of its 6 images holds a box, so that there is nothing to learn" in message

    @pytest.mark.parametrize("workers", [0, 1])
    def test_an_image_that_is_damaged_inside_is_told_by_its_worker_in_one_sentence(
        self, prepared_folder, tmp_path, workers
    ):
        root = prepared_folder(train=1)
        path = root / "images" / "train1.png"
        path.write_bytes(path.read_bytes()[:-40])
        message = self.refused(root, tmp_path, f"train_dataloader.num_workers={workers}")
        assert message.startswith(f"error: {path}: not an image that can be decoded (")


def without_boxes(root: Path, split: str) -> Path:
    """Remove the boxes of a split."""
    path = root / "annotations" / f"{split}_5.json"
    write_coco(path, read_coco(path) | {"annotations": []})
    return root


class TestBadInput:
    def test_no_such_switch(self, tmp_path):
        message = failing(["train", "retina_phantom", "--with", "emma"], tmp_path, 2)
        assert "emma: no such switch; did you mean ema?" in message
        assert "emma: no such switch" in failing(["test", "retina_phantom", "best.pth", "--with", "emma"], tmp_path, 2)

    def test_a_frozen_backbone_without_weights(self, prepared_folder, tmp_path):
        arguments = ["train", "retina_phantom", "--data-root", str(prepared_folder()), "--with", "frozen_backbone"]
        assert "frozen stages would stay random" in failing(arguments, tmp_path, 2)

    def test_weights_of_another_architecture(self, prepared_folder, tmp_path):
        state = {f"backbone.{name}": value for name, value in torchvision.models.resnet18().state_dict().items()}
        torch.save({"state_dict": state}, tmp_path / "start.pth")
        arguments = ["train", "retina_phantom", "--data-root", str(prepared_folder()), "--load-from", "start.pth"]
        assert "belongs to another architecture; its backbone and the model's have 0 of 2" in failing(
            arguments, tmp_path, 1
        )

    def test_no_such_config(self, tmp_path):
        assert "no such config" in failing(["train", "retina_6cls"], tmp_path, 2)

    def test_no_such_checkpoint(self, tmp_path):
        assert "no such checkpoint" in failing(["test", "retina_phantom", "best.pth"], tmp_path, 1)

    def test_a_run_that_was_not_validated_stands_for_its_last_checkpoint(self, tmp_path):
        with pytest.raises(CheckpointError, match="no such checkpoint"):
            find_checkpoint(str(tmp_path))
        (tmp_path / "iter_20.pth").touch()
        (tmp_path / "last_checkpoint").write_text("moved/since/iter_20.pth")
        assert find_checkpoint(str(tmp_path)) == tmp_path / "iter_20.pth"
        (tmp_path / "best_bbox_mAP_50_iter_10.pth").touch()
        assert find_checkpoint(str(tmp_path)).name == "best_bbox_mAP_50_iter_10.pth"

    def test_a_data_root_without_the_files(self, tmp_path):
        message = failing(["train", "retina_phantom", "--data-root", "nowhere"], tmp_path, 1)
        assert "nowhere/annotations/" in message
        assert "prepare_data.py" in message

    def test_classes_that_differ_from_the_file(self, prepared_folder, tmp_path):
        root = prepared_folder(labels=("Left lung", "Right lung"))
        message = failing(["train", "retina_phantom", "--data-root", str(root)], tmp_path, 1)
        assert "holds the classes [Left lung, Right lung], the config expects [Aortic enlargement" in message

    def test_a_model_of_another_class_count(self, prepared_folder, tmp_path):
        options = [*TINY, "model.bbox_head.num_classes=3"]
        message = failing(["train", "retina_phantom", "--data-root", str(prepared_folder())], tmp_path, 2, options)
        assert "model.bbox_head.num_classes is 3, the data hold 5 classes" in message

    def test_a_repeat_factor_for_a_class_without_a_box(self, prepared_folder, tmp_path):
        options = [*TINY, "train_dataloader.sampler.repeat_threshold=0.2"]
        message = failing(["train", "retina_phantom", "--data-root", str(prepared_folder())], tmp_path, 2, options)
        assert "asks to repeat Infiltration, of which the training images hold no box" in message

    def test_a_share_of_normals_where_there_is_none(self, prepared_folder, tmp_path):
        options = [*TINY, "train_dataloader.sampler.normal_share=0.25"]
        arguments = ["train", "retina_phantom", "--data-root", str(prepared_folder(train=3))]
        assert "asks for normal studies" in failing(arguments, tmp_path, 2, options)

    def test_a_share_of_normals_is_no_number(self, prepared_folder, tmp_path):
        options = [*TINY, "train_dataloader.sampler.normal_share=half"]
        message = failing(["train", "retina_phantom", "--data-root", str(prepared_folder())], tmp_path, 2, options)
        assert "train_loop cannot be built" in message

    def test_an_empty_training_split(self, prepared_folder, tmp_path):
        root = prepared_folder(train=0)
        assert "holds no image" in failing(["train", "retina_phantom", "--data-root", str(root)], tmp_path, 1)

    def test_a_missing_image(self, prepared_folder, tmp_path):
        root = prepared_folder()
        (root / "images" / "val1.png").unlink()
        assert "val1.png" in failing(["train", "retina_phantom", "--data-root", str(root)], tmp_path, 1)

    def test_a_checkpoint_of_another_class_count(self, prepared_folder, tmp_path, trained):
        labels = ("Right lung", "Left lung")
        root = prepared_folder(labels=labels, name="auto")
        arguments = ["test", "retina_lungs", str(trained / "start.pth"), "--data-root", str(root)]
        assert "another number of classes" in failing(arguments, tmp_path, 1, TINY_TEST)

    def test_a_damaged_checkpoint(self, prepared_folder, tmp_path, trained):
        path = tmp_path / "cut.pth"
        path.write_bytes((trained / "start.pth").read_bytes()[:5000])
        arguments = ["test", "retina_phantom", str(path), "--data-root", str(prepared_folder())]
        assert "is cut short or damaged" in failing(arguments, tmp_path, 1)

    def test_pretrained_weights_without_a_network(self, prepared_folder, tmp_path):
        address = "http://127.0.0.1:9/start.pth"  # nobody listens there
        arguments = ["train", "retina_phantom", "--data-root", str(prepared_folder()), "--load-from", address]
        message = failing(arguments, tmp_path, 1)
        assert "cannot be downloaded" in message
        assert "--load-from none" in message

    def test_a_file_of_weights_that_is_missing(self, prepared_folder, tmp_path):
        arguments = ["train", "retina_phantom", "--data-root", str(prepared_folder()), "--load-from", "gone.pth"]
        assert "gone.pth: no such file" in failing(arguments, tmp_path, 1)

    def test_nothing_to_resume(self, prepared_folder, tmp_path):
        arguments = ["train", "retina_phantom", "--data-root", str(prepared_folder()), "--resume"]
        assert "no checkpoint to resume" in failing(arguments, tmp_path, 1)

    @pytest.mark.parametrize("tool", ["train", "test"])
    def test_a_work_dir_that_cannot_be_made(self, prepared_folder, tmp_path, trained, tool):
        (tmp_path / "file").write_text("")
        what = ["--load-from", "none"] if tool == "train" else [str(trained / "start.pth")]
        folder = str(tmp_path / "file" / "run")
        arguments = [tool, "retina_phantom", *what, "--data-root", str(prepared_folder()), "--work-dir", folder]
        message = failing(arguments, tmp_path, 2)
        assert "the run cannot write there (Not a directory); choose another folder by --work-dir" in message

    def test_a_gate_without_normal_studies(self, prepared_folder, tmp_path):
        root = prepared_folder(train=3)  # the fourth would be normal
        message = failing(["train", "retina_phantom", "--with", "gate", "--data-root", str(root)], tmp_path, 1)
        assert "train_5.json: every training image holds a finding" in message
        assert "without --drop-normals, or choose the recipe without a gate" in message
        assert not list(tmp_path.rglob("*.pth"))

    def test_a_gate_and_no_normal_study_drawn(self, prepared_folder, tmp_path):
        arguments = ["train", "retina_phantom", "--data-root", str(prepared_folder()), "--with", "gate,abnormal_only"]
        assert "normal_share is 0, so that no normal study is drawn" in failing(arguments, tmp_path, 2)

    def test_a_gate_option_that_cannot_be(self, prepared_folder, tmp_path):
        arguments = ["train", "retina_phantom", "--with", "gate", "--data-root", str(prepared_folder())]
        for option, words in (("cut=2.0", "cut is 2"), ("widht=3", "widht")):
            options = [*TINY, f"model.gate.{option}"]
            assert words in failing(arguments, tmp_path, 2, options)

    def test_an_option_that_its_part_does_not_know(self, prepared_folder, tmp_path):
        options = [*TINY, "train_cfg.max_iter=5"]
        message = failing(["train", "retina_phantom", "--data-root", str(prepared_folder())], tmp_path, 2, options)
        assert "train_loop cannot be built" in message
