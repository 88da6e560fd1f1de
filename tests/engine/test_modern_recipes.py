"""The recipes of mmdet's modern detectors, tiny: trained, scored, resumed and used, normal studies included."""

from __future__ import annotations

import copy
import json
import math
import re
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData
from modern import DETECTORS, config_of, options_of

from cxr_mmdet.engine.config import load_config
from cxr_mmdet.engine.running import score_checkpoint, train
from cxr_mmdet.inference.predictor import Predictor

if TYPE_CHECKING:
    from conftest import PreparedFolder


def losses(work_dir) -> dict[int, float]:
    """Return the loss of each iteration, of all starts of a run."""
    text = "".join(path.read_text() for path in sorted(work_dir.glob("*/*.log")))
    return {int(step): float(loss) for step, loss in re.findall(r"Iter\(train\) \[ *(\d+)/.* loss: (\S+)", text)}


@pytest.mark.parametrize("name", DETECTORS)
def test_trains_validates_saves_resumes_scores_and_predicts(prepared_folder: PreparedFolder, tmp_path, name):
    root, work_dir = prepared_folder(), tmp_path / "run"

    def config(iterations: int):
        options = [
            *options_of(name),
            f"train_cfg.max_iters={iterations}",
            f"train_cfg.val_interval={iterations}",
            "default_hooks.checkpoint.interval=1",
            "default_hooks.logger.interval=1",
        ]
        return load_config(name, data_root=root, work_dir=work_dir, load_from="none", cfg_options=options)

    outcome = train(config(1))
    assert outcome.best_checkpoint is not None
    outcome = train(config(2), resume=True)
    assert outcome.last_checkpoint.name == "iter_2.pth"
    seen = losses(work_dir)
    assert seen.keys() == {1, 2}
    assert all(math.isfinite(loss) and loss > 0 for loss in seen.values())

    scored = score_checkpoint(config(2), str(work_dir))
    assert (scored.out_dir / "metrics.json").is_file()
    detections = json.loads((scored.out_dir / "detections.json").read_text())
    assert {entry["category_id"] for entry in detections} <= {1, 2, 3, 4, 5}

    predictor = Predictor.load(work_dir, threads=1)
    found = predictor.predict(root / "images" / "val1.png", score_threshold=0.0)
    assert found.class_names == predictor.class_names
    assert np.isfinite(found.scores).all()
    if name == "dino_r50":
        assert len(found) > 0  # it has no threshold of its own


@pytest.mark.parametrize("name", DETECTORS)
def test_a_step_of_nothing_but_normal_studies(name):
    init_default_scope("mmdet")
    torch.manual_seed(0)
    model = MODELS.build(copy.deepcopy(config_of(name).model))
    model.init_weights()
    model.train()
    samples = []
    for _ in range(2):
        sample = DetDataSample(metainfo={"img_shape": (64, 64), "scale_factor": (1.0, 1.0), "ori_shape": (64, 64)})
        sample.gt_instances = InstanceData(bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long))
        samples.append(sample)
    images = [torch.randint(0, 255, (1, 64, 64), dtype=torch.uint8).expand(3, -1, -1) for _ in range(2)]
    data = model.data_preprocessor({"inputs": images, "data_samples": samples}, True)
    loss, _ = model.parse_losses(model(**data, mode="loss"))
    loss.backward()
    assert loss.isfinite()
    assert loss > 0
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    assert gradients
    assert all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize("name", DETECTORS)
def test_a_random_start_lets_the_whole_backbone_train(name):
    model = MODELS.build(copy.deepcopy(config_of(name).model)).train()
    assert all(parameter.requires_grad for parameter in model.backbone.parameters())
    norms = [module for module in model.backbone.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert norms
    assert all(module.training for module in norms)


@pytest.mark.parametrize("name", DETECTORS)
def test_with_coco_weights_the_backbones_norms_keep_their_statistics(name):
    init_default_scope("mmdet")
    model = MODELS.build(load_config(name).model).train()
    norms = [module for module in model.backbone.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert norms
    assert not any(module.training for module in norms)
    assert not any(isinstance(module, torch.nn.SyncBatchNorm) for module in model.modules())
