"""The recipes: every number of docs/recipes.md, read back from the config that a user would train."""

import copy
import itertools
import json
import math
import re
import shutil

import pytest
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import init_default_scope

from cxr_mmdet.datasets import CxrDataset
from cxr_mmdet.engine import config as configs
from cxr_mmdet.engine.metrics import CxrMetric
from cxr_mmdet.engine.mmdet_models import mmdet_model, mmdet_recipe
from cxr_mmdet.errors import ConfigError, DatasetError, UsageError
from cxr_mmdet.models.steady_loss import SteadyLoss
from cxr_mmdet.structures.coco import sample_images, write_coco
from cxr_mmdet.structures.labels import LABELS_5, LABELS_14, MINORITY_LABELS_5

RECIPES = ("retina_14cls", "retina_5cls", "faster_rcnn_14cls", "faster_rcnn_5cls")
OWN = (
    "retina_small",
    "faster_rcnn_small",
    "retina_phantom",
    "retina_phantom_14cls",
    "retina_lungs",
    "gfl_lungs",
)
MODERN = {
    "rtmdet_tiny": "rtmdet/rtmdet_tiny_8xb32-300e_coco.py",
    "rtmdet_s": "rtmdet/rtmdet_s_8xb32-300e_coco.py",
    "rtmdet_m": "rtmdet/rtmdet_m_8xb32-300e_coco.py",
    "atss": "atss/atss_r50_fpn_1x_coco.py",
    "gfl": "gfl/gfl_r50_fpn_1x_coco.py",
    "vfnet": "vfnet/vfnet_r50_fpn_1x_coco.py",
    "cascade_rcnn": "cascade_rcnn/cascade-rcnn_r50_fpn_1x_coco.py",
    "dino_r50": "dino/dino-4scale_r50_8xb2-12e_coco.py",
}
"""Recipes of mmdet's modern detectors, and the recipe of mmdet that each model is taken from."""

OF_THE_DATA = (*MODERN, *(name for name in OWN if name != "retina_phantom"))
"""Recipes whose classes and files are the prepared folder's."""

MIRRORS_AND_PASTES = {
    "RandomFlip",
    "Mosaic",
    "CachedMosaic",
    "MixUp",
    "CachedMixUp",
    "CopyPaste",
    "PhotoMetricDistortion",
}
SHORT_EDGES = (640, 672, 704, 736, 768, 800)


def load(name: str, *options: str) -> Config:
    return configs.load_config(name, cfg_options=options)


def inner_dataset(config: Config) -> dict:
    dataset = config.train_dataloader.dataset
    return dataset.get("dataset", dataset)


def step(pipeline: list, name: str) -> dict:
    return next(dict(transform) for transform in pipeline if transform["type"] == name)


@pytest.mark.parametrize("name", ["retina_14cls", "retina_5cls", "retina_phantom"])
def test_a_recipe_with_a_gate_differs_in_the_gate_alone(name):
    plain, with_gate = (configs.load_config(name, switches=on).to_dict() for on in ([], ["gate"]))
    assert with_gate["model"].pop("gate") == dict(source="scores", score_mode="multiply", exponent=0.25)
    assert with_gate["model"].pop("type") == f"Gated{plain['model'].pop('type')}"
    for config in (plain, with_gate):
        config.pop("work_dir")
    assert with_gate == plain


def test_the_recipes_are_there():
    assert {*RECIPES, *OWN, *MODERN} == set(configs.config_names())


@pytest.mark.parametrize("name", configs.config_names())
def test_every_config_builds_its_model_and_holds_no_key_that_nothing_reads(name):
    config = load(name)  # raises on unknown keys
    init_default_scope("mmdet")
    model = MODELS.build(copy.deepcopy(config.model))  # DINO writes into what it is built of
    assert sum(parameter.numel() for parameter in model.parameters()) > 1e6
    assert config.auto_scale_lr.base_batch_size == config.train_dataloader.batch_size


@pytest.mark.parametrize("name", configs.config_names())
def test_normal_studies_stay_in_every_training_set(name):
    assert "filter_cfg" not in inner_dataset(load(name))


@pytest.mark.parametrize("name", RECIPES)
class TestData:
    def test_labels_and_files(self, name):
        config = load(name)
        labels, spec = (LABELS_14, "14") if "14cls" in name else (LABELS_5, "5")
        for part in (inner_dataset(config), config.val_dataloader.dataset, config.test_dataloader.dataset):
            assert tuple(part.metainfo.classes) == labels
        configs.check_class_counts(config, labels)
        assert inner_dataset(config).ann_file == f"annotations/train_{spec}.json"
        for part in (config.val_dataloader.dataset, config.val_evaluator, config.test_evaluator):
            assert part.ann_file == f"annotations/val_{spec}.json"


@pytest.mark.parametrize("name", [*RECIPES, *MODERN])
class TestImages:
    def test_short_edge(self, name):
        config = load(name)
        scales, tested = [(1333, edge) for edge in SHORT_EDGES], (1333, 800)
        if name == "rtmdet_tiny":  # squares, every side a multiple of the last stride
            scales, tested = list(itertools.product(range(448, 577, 32), repeat=2)), (512, 512)
        resize = step(inner_dataset(config).pipeline, "RandomChoiceResize")
        assert [tuple(scale) for scale in resize["scales"]] == scales
        assert step(config.test_dataloader.dataset.pipeline, "Resize")["scale"] == tested

    def test_nothing_mirrors_or_pastes_chests_together(self, name):
        config = load(name)
        assert {transform["type"] for transform in inner_dataset(config).pipeline} & MIRRORS_AND_PASTES == set()
        assert not config.model.data_preprocessor.get("batch_augments")
        assert {hook["type"] for hook in config.custom_hooks}.isdisjoint({"PipelineSwitchHook"})


@pytest.mark.parametrize("name", RECIPES)
class TestRecipe:
    def test_neck_on_res3_to_res5(self, name):
        model = load(name).model
        assert (model.backbone.depth, model.backbone.out_indices) == (50, (1, 2, 3))
        assert model.neck.in_channels == [512, 1024, 2048]
        assert model.neck.get("start_level", 0) == 0
        assert model.neck.out_channels == 256

    def test_solver(self, name):
        config = load(name)
        assert config.train_dataloader.batch_size == 1
        assert config.optim_wrapper.optimizer.type == "SGD"
        assert config.optim_wrapper.optimizer.lr == 0.001
        assert config.train_cfg.max_iters == (2000 if "14cls" in name else 5000)

    def test_scores_and_nms_when_testing(self, name):
        test_cfg = load(name).model.test_cfg
        test_cfg = test_cfg.get("rcnn", test_cfg)
        assert (test_cfg.score_thr, test_cfg.nms.type, test_cfg.nms.iou_threshold) == (0.05, "nms", 0.5)

    def test_starts_from_coco_by_a_public_address(self, name):
        config = load(name)
        assert config.load_from.startswith("https://")
        assert ("retinanet" if "retina" in name else "faster_rcnn") in config.load_from
        assert "r50_fpn_mstrain_3x_coco" in config.load_from
        assert config.model.backbone.init_cfg is None  # the weights come as a whole detector


def changes(ours, stock, where="") -> dict[str, object]:
    """Return each value of ``ours`` that is not the same in ``stock``, by its dotted place."""
    if isinstance(ours, dict) and isinstance(stock, dict):
        assert set(stock) <= set(ours), f"{where} lacks {set(stock) - set(ours)}"
        parts = [changes(ours[key], stock.get(key, "absent"), f"{where}.{key}") for key in ours]
        return {place: value for part in parts for place, value in part.items()}
    if isinstance(ours, (list, tuple)) and isinstance(stock, (list, tuple)) and len(ours) == len(stock):
        parts = [
            changes(one, other, f"{where}.{place}") for place, (one, other) in enumerate(zip(ours, stock, strict=True))
        ]
        return {place: value for part in parts for place, value in part.items()}
    return {} if ours == stock else {where.removeprefix("."): ours}


RTMDET_CHANGES = {
    "backbone.init_cfg": None,
    "backbone.norm_cfg.type": "BN",
    "backbone.norm_eval": True,
    "bbox_head.norm_cfg.type": "BN",
    "data_preprocessor.pad_size_divisor": 32,
    "neck.norm_cfg.type": "BN",
    "test_cfg.max_per_img": 100,
    "test_cfg.nms_pre": 1000,
    "test_cfg.score_thr": 0.05,
}
MODEL_CHANGES = {
    "rtmdet_tiny": RTMDET_CHANGES,
    "rtmdet_s": RTMDET_CHANGES,
    # mmdet's larger variants ask for weights of the backbone only where the small ones do.
    "rtmdet_m": RTMDET_CHANGES,
    "atss": {"backbone.init_cfg": None},
    "gfl": {"backbone.init_cfg": None},
    "vfnet": {"backbone.init_cfg": None},
    "cascade_rcnn": {"backbone.init_cfg": None},
    "dino_r50": {"backbone.init_cfg": None, "test_cfg.max_per_img": 100},
}


@pytest.mark.parametrize("name", MODERN)
class TestModernLeaf:
    def test_the_model_is_mmdets_but_for_what_its_base_says(self, name):
        """RTMDet-m's base follows from that of RTMDet-s, mmdet's from that of RTMDet-l: the same must come out."""
        found = changes(load(name, "classes=A,B,C").model.to_dict(), mmdet_model(MODERN[name]).to_dict())
        found.pop("_scope_", None)  # mmengine's mark of what came from mmdet's base
        heads = [key for key in found if key.endswith("num_classes")]
        assert len(heads) == (3 if name == "cascade_rcnn" else 1)
        assert {found.pop(key) for key in heads} == {3}
        assert found == {"data_preprocessor.type": "GreyDetDataPreprocessor", **MODEL_CHANGES[name]}

    def test_rates_follow_from_mmdets_recipe(self, name):
        """By the number of images a step, and for AdamW by its square root."""
        stock = Config.fromfile(mmdet_recipe(MODERN[name]))
        config = load(name)
        optimizer, theirs = config.optim_wrapper.optimizer, stock.optim_wrapper.optimizer
        images = 256 if "rtmdet" in name else 16
        share = config.train_dataloader.batch_size / images
        assert optimizer.type == theirs.type == ("AdamW" if "rtmdet" in name or name == "dino_r50" else "SGD")
        expected = theirs.lr * (math.sqrt(share) if optimizer.type == "AdamW" else share)
        assert optimizer.lr == pytest.approx(expected, rel=0.02)  # as many digits as the config writes
        assert optimizer.weight_decay == theirs.weight_decay
        assert config.optim_wrapper.get("paramwise_cfg") == stock.optim_wrapper.get("paramwise_cfg")
        assert config.optim_wrapper.get("clip_grad") == stock.optim_wrapper.get("clip_grad")
        assert config.train_cfg.max_iters == 2000

    def test_starts_from_coco_by_a_public_address_of_its_own_recipe(self, name):
        address = load(name).load_from
        assert address.startswith("https://download.openmmlab.com/mmdetection/")
        index = mmdet_recipe(MODERN[name]).parent / "metafile.yml"
        assert f"Weights: {address}\n" in index.read_text()


OWN_CLASSES = ("Left hilum", "Right hilum", "Device, any")


@pytest.fixture
def own_folder(prepared_folder):
    """Return a prepared folder of three classes of a user's own."""
    return prepared_folder(labels=OWN_CLASSES, name="auto")


def classes_of(config: Config) -> set[tuple[str, ...]]:
    loaders = (config.train_dataloader, config.val_dataloader, config.test_dataloader)
    return {tuple(part["metainfo"]["classes"]) for part in configs.annotated_parts(loaders)}


class TestClassesOfTheData:
    @pytest.mark.parametrize("name", OF_THE_DATA)
    def test_a_recipe_takes_classes_and_files_from_the_prepared_folder(self, own_folder, name):
        config = configs.load_config(name, data_root=own_folder)
        assert classes_of(config) == {OWN_CLASSES}
        configs.check_class_counts(config, OWN_CLASSES)
        assert inner_dataset(config)["ann_file"] == "annotations/train_auto.json"
        for part in (config.val_dataloader.dataset, config.val_evaluator, config.test_evaluator):
            assert part.ann_file == "annotations/val_auto.json"
        init_default_scope("mmdet")
        model = MODELS.build(copy.deepcopy(config.model))
        head = getattr(model, "roi_head", model).bbox_head
        heads = head if name.startswith("cascade") else [head]
        assert {each.num_classes for each in heads} == {3}

    def test_the_dumped_config_keeps_them_without_the_folder(self, own_folder, tmp_path):
        config = configs.load_config("cascade_rcnn", data_root=own_folder)
        config.dump(tmp_path / "dumped.py")
        shutil.rmtree(own_folder)
        assert load(str(tmp_path / "dumped.py")).to_dict() == config.to_dict()

    def test_several_label_sets_are_named_and_one_is_chosen(self, own_folder):
        annotations = own_folder / "annotations"
        for split in ("train", "val"):
            coco = json.loads((annotations / f"{split}_auto.json").read_text())
            coco["categories"][0]["name"] = "Hilum"
            write_coco(annotations / f"{split}_mine.json", coco)
            write_coco(annotations / "fold2" / f"{split}_mine.json", coco)
        with pytest.raises(UsageError, match=r"several label sets \(auto, mine\); choose one by --labels"):
            configs.load_config("retina_small", data_root=own_folder)
        with pytest.raises(UsageError, match="has no label set 14, only auto, mine; pass one"):
            configs.load_config("retina_small", data_root=own_folder, labels="14")
        config = configs.load_config("retina_small", data_root=own_folder, labels="mine", switches=["ema"])
        assert classes_of(config) == {("Hilum", *OWN_CLASSES[1:])}
        assert config.work_dir == "work_dirs/retina_small_mine+ema"
        config = configs.load_config("retina_small", data_root=own_folder, labels="fold2/mine")
        assert config.val_evaluator.ann_file == "annotations/fold2/val_mine.json"

    @pytest.mark.parametrize("value", ["Right lung,Left lung (apex)", "[Right lung, Left lung (apex)]"])
    def test_class_names_of_the_command_line_keep_their_blanks(self, value):
        assert classes_of(load("retina_small", f"classes={value}")) == {("Right lung", "Left lung (apex)")}

    @pytest.mark.parametrize("value", ["5", "A,A", "A,2", ""])
    def test_classes_that_are_not_different_names_are_refused(self, value):
        with pytest.raises(ConfigError, match=r"classes is .*; give names that differ"):
            load("retina_small", f"classes={value}")

    def test_brackets_that_do_not_match_are_refused(self):
        with pytest.raises(
            ConfigError, match=r"--cfg-options classes=\[A,B: its brackets do not match; close each one"
        ):
            load("retina_small", "classes=[A,B")

    @pytest.mark.parametrize("name", ["retina_14cls", "faster_rcnn_5cls"])
    def test_labels_on_the_command_line_replace_those_of_a_reference_recipe(self, own_folder, name):
        assert load(name, f"data_root={own_folder}").val_evaluator.ann_file.startswith("annotations/val_")
        config = configs.load_config(name, data_root=own_folder, labels="auto")
        assert classes_of(config) == {OWN_CLASSES}
        configs.check_class_counts(config, OWN_CLASSES)
        assert {part["ann_file"] for part in configs.annotated_parts(config._cfg_dict)} == {
            "annotations/train_auto.json",
            "annotations/val_auto.json",
        }

    def test_a_folder_that_is_not_there_or_not_prepared(self, tmp_path):
        with pytest.raises(DatasetError, match="nowhere: no such prepared folder; make it by"):
            configs.load_config("retina_small", data_root=tmp_path / "nowhere")
        with pytest.raises(DatasetError, match=r"holds no annotations/train_<labels>\.json"):
            configs.load_config("retina_small", data_root=tmp_path)

    def test_a_training_without_data_is_one_sentence(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        config = load("retina_small")
        with pytest.raises(
            DatasetError, match=r"^data/prepared: no such prepared folder; .* name it by --data-root\.$"
        ):
            configs.check_annotation_files(config)
        assert configs.class_names(load("gfl_lungs")) == ("class 1", "class 2")

    def test_classes_as_an_option_or_a_variable_reach_every_part(self, tmp_path):
        for options, text in ((["classes=Hilum"], ""), ([], "classes = ['Hilum']\n")):
            path = tmp_path / "mine.py"
            path.write_text(f"_base_ = [{str(configs.config_folder() / 'faster_rcnn_14cls.py')!r}]\n{text}")
            config = load(str(path), *options)
            assert classes_of(config) == {("Hilum",)}
            configs.check_class_counts(config, ["Hilum"])
            assert "classes" not in config

    @pytest.mark.parametrize(
        ("option", "words"),
        [
            ("train_pipeline=[]", "set train_dataloader.dataset.pipeline"),
            ("vis_backends=[]", "set visualizer.vis_backends"),
            ("classes.0=A", "classes has no parts; set all of it as classes="),
        ],
    )
    def test_a_variable_that_nothing_reads_any_more_is_refused(self, option, words):
        with pytest.raises(ConfigError, match=re.escape(words)):
            load("retina_5cls", option)


@pytest.mark.parametrize("name", ["retina_14cls", "retina_5cls"])
def test_retinanet_has_p6_and_p7_from_res5(name):
    model = load(name).model
    assert (model.neck.add_extra_convs, model.neck.num_outs) == ("on_input", 5)
    assert model.bbox_head.anchor_generator.strides == [8, 16, 32, 64, 128]


@pytest.mark.parametrize("name", ["faster_rcnn_14cls", "faster_rcnn_5cls"])
def test_faster_rcnn_follows_its_neck(name):
    model = load(name).model
    assert model.neck.num_outs == 4
    assert model.rpn_head.anchor_generator.strides == [8, 16, 32, 64]
    assert model.rpn_head.anchor_generator.scales == [8]
    extractor = model.roi_head.bbox_roi_extractor
    assert extractor.featmap_strides == [8, 16, 32]
    assert extractor.finest_scale == 224 // 2  # P3 up to the canonical 224 px, P4 up to 448
    assert model.train_cfg.rcnn.sampler.num == 64


@pytest.mark.parametrize("name", ["retina_5cls", "faster_rcnn_5cls"])
def test_five_classes_are_padded_squares_with_minority_copies(name):
    config = load(name)
    dataset = config.train_dataloader.dataset
    assert dataset.type == "MinorityAugmentedDataset"
    assert tuple(dataset.minority_classes) == MINORITY_LABELS_5
    names = [transform["type"] for transform in inner_dataset(config).pipeline]
    assert names.index("MinorityFlipRot90") < names.index("PadToSquare") < names.index("RandomChoiceResize")
    assert "PadToSquare" in [transform["type"] for transform in config.test_dataloader.dataset.pipeline]


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_with_votes_differs_in_what_weighs_alone(name):
    base, voted = load(name), configs.load_config(name, switches=["votes"])
    head, sampler = voted.model.get("bbox_head"), None
    if head is None:
        head, sampler = voted.model.roi_head.bbox_head, voted.model.train_cfg.rcnn.sampler
        assert sampler.type == "VoteRandomSampler"
        sampler.type = "RandomSampler"
        assert voted.model.rpn_head.type == "RPNHead"
    assert "VoteWeighted" in head.type
    head.type = head.type.replace("VoteWeighted", "")
    for each in (base, voted):
        each.work_dir = None
    assert voted.to_dict() == base.to_dict()


@pytest.mark.parametrize("name", ["retina_14cls", "retina_5cls+votes", "retina_phantom+gate", "retina_lungs"])
def test_a_retinanets_loss_is_divided_by_a_mean_as_detectron2s(name):
    init_default_scope("mmdet")
    name, *on = name.split("+")
    head = MODELS.build(configs.load_config(name, switches=on).model).bbox_head
    assert isinstance(head, SteadyLoss)
    assert (head.momentum, head.mean_positives) == (0.9, 100)
    stock = MODELS.build(configs.load_config(name, switches=[*on, "stock_loss"]).model).bbox_head
    assert not isinstance(stock, SteadyLoss)


def rates(name: str, iterations: int) -> list[float]:
    """Return the learning rate of each iteration, by mmengine's own schedulers."""
    import torch
    from mmengine.registry import PARAM_SCHEDULERS

    config = load(name)
    base = config.optim_wrapper.optimizer.lr
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=base)
    schedulers = [
        PARAM_SCHEDULERS.build({"end": config.train_cfg.max_iters} | dict(item), default_args=dict(optimizer=optimizer))
        for item in config.param_scheduler
    ]
    history = []
    for _ in range(iterations):
        history.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        for scheduler in schedulers:
            scheduler.step()
    return history


@pytest.mark.parametrize(("name", "total"), [("retina_14cls", 2000), ("faster_rcnn_5cls", 5000)])
def test_rates_are_detectron2s_warmup_cosine(name, total):
    """lr(i) = 0.001 · (1 + cos(πi/N))/2 · w(i); w rises linearly from 1/1000 to 1 over 100 iterations."""
    history = rates(name, total)
    for iteration in (0, 1, 50, 98, 99, 100, 101, 500, total // 2, total - 1):
        cosine = 0.5 * (1 + math.cos(math.pi * iteration / total))
        # mmengine reaches the full rate with the 100th step, Detectron2 with the 101st.
        warm_up = min(1.0, 0.001 + 0.999 * iteration / 99)
        assert history[iteration] == pytest.approx(0.001 * cosine * warm_up, rel=1e-6, abs=1e-12)


def test_the_multi_step_alternative_is_a_base():
    config = Config.fromfile(configs.config_folder() / "_base_" / "schedules" / "multi_step.py")
    steps = config.param_scheduler[1]
    assert (steps.milestones, steps.gamma) == ([200, 1900], 0.1)


class TestLoadConfig:
    def test_names_near_recipes_for_a_typing_error(self):
        with pytest.raises(ConfigError, match="retina_5cls"):
            load("retina_5cl")

    def test_a_recipe_is_found_by_name_path_and_file_name(self):
        assert {configs.resolve_config(name).name for name in ("retina_5cls", "configs/retina_5cls.py")} == {
            "retina_5cls.py"
        }

    def test_a_broken_config_is_one_sentence(self, tmp_path):
        path = tmp_path / "mine.py"
        path.write_text("model = dict(\n")
        with pytest.raises(ConfigError, match=r"mine\.py: cannot be read as a config: SyntaxError"):
            load(str(path))

    def test_an_unknown_key_in_a_config(self, tmp_path):
        path = tmp_path / "mine.py"
        path.write_text(f"_base_ = ['{configs.config_folder()}/retina_5cls.py']\nload_form = None\n")
        with pytest.raises(ConfigError, match="load_form; did you mean load_from"):
            load(str(path))

    @pytest.mark.parametrize("option", ["optim_wraper.optimizer.lr=1", "train_cfg.max_iters", "=3"])
    def test_a_wrong_option(self, option):
        with pytest.raises(ConfigError, match="--cfg-options"):
            load("retina_5cls", option)

    def test_options_reach_nested_keys(self):
        config = load("retina_5cls", "train_cfg.max_iters=7", "model.bbox_head.anchor_generator.strides=[4,8,16,32,64]")
        assert config.train_cfg.max_iters == 7
        assert config.model.bbox_head.anchor_generator.strides == [4, 8, 16, 32, 64]

    def test_data_root_reaches_wrapped_datasets_and_evaluators(self, tmp_path):
        config = configs.load_config("retina_5cls", data_root=tmp_path)
        roots = {part["data_root"] for part in configs.annotated_parts(config._cfg_dict)}
        assert roots == {str(tmp_path)}
        assert len(configs.annotated_parts(config._cfg_dict)) == 5  # train, val, test, two evaluators

    def test_random_weights_let_the_whole_backbone_train(self):
        config = configs.load_config("retina_5cls", load_from="none")
        assert config.load_from is None
        backbone = config.model.backbone
        assert (backbone.frozen_stages, backbone.norm_eval, backbone.init_cfg) == (-1, False, None)

    def test_another_class_count_is_refused_with_the_remedy(self):
        with pytest.raises(ConfigError, match=r"model\.bbox_head\.num_classes=2"):
            configs.check_class_counts(load("retina_5cls"), ("Right lung", "Left lung"))

    def test_every_head_with_another_class_count_is_in_the_remedy_and_it_helps(self):
        with pytest.raises(ConfigError, match=r"model\.roi_head\.bbox_head\.0\.num_classes is 3") as caught:
            configs.check_class_counts(load("cascade_rcnn", "classes=A,B,C"), ("Right lung", "Left lung"))
        remedy = re.search(r"pass --cfg-options (.+)\.$", str(caught.value))[1].split()
        assert remedy == [f"model.roi_head.bbox_head.{stage}.num_classes=2" for stage in range(3)]
        configs.check_class_counts(load("cascade_rcnn", *remedy), ("Right lung", "Left lung"))

    def test_a_random_start_touches_only_switches_that_the_backbone_has(self):
        from mmengine.config import ConfigDict

        config = Config({"model": {"backbone": {"type": "SwinTransformer", "frozen_stages": 1}}})
        configs.train_whole_backbone(config)
        assert config.model.backbone == {"type": "SwinTransformer", "frozen_stages": -1, "init_cfg": None}
        config = Config({"model": {"backbone": {"type": "ResNet", "norm_cfg": {"type": "BN", "requires_grad": False}}}})
        configs.train_whole_backbone(config)
        assert config.model.backbone.norm_cfg == ConfigDict(type="BN", requires_grad=True)

    def test_a_recipe_that_mmdet_does_not_have(self):
        with pytest.raises(ConfigError, match=r"mmdet::atss/atss_r5\.py: the installed mmdet has no such config"):
            mmdet_model("atss/atss_r5.py")


@pytest.mark.parametrize(
    ("images", "iterations", "interval", "batch_size", "expected"),
    [
        (3000, 2000, 500, 1, (2000, 150)),  # 0.05 * 1.5 * 2000 = 150 images: one validation
        (3000, 30_000, 500, 4, (500, 150)),  # 9,000 images in 60 validations
        (3000, 30_000, 5000, 4, (5000, 1500)),  # ... in 6
        (3000, 90_000, 1500, 1, (3000, 225)),  # 6,750, so 45 of 150 in place of 60: every second one
        (50, 500, 100, 4, (200, None)),  # 150: 3 of all in place of 5
        (50, 7800, 1300, 4, (1300, None)),
        (300, 20, 4, 1, (20, 150)),  # at least one
    ],
)
def test_validation_takes_a_share_of_the_run(monkeypatch, images, iterations, interval, batch_size, expected):
    """A run of the 14-class recipe trained on 2,000 images and validated 12,000."""
    monkeypatch.setattr(configs, "read_coco", lambda path: {"images": [{}] * images})
    part = {"data_root": "prepared", "ann_file": "val.json"}
    config = Config(
        {
            "val_share": 0.05,
            "train_cfg": {"max_iters": iterations, "val_interval": interval},
            "train_dataloader": {"batch_size": batch_size},
            "val_dataloader": {"dataset": {"type": "CxrDataset", **part}},
            "val_evaluator": {"type": "CxrMetric", **part},
        }
    )
    note = configs.limit_validation(config)
    limited = config.train_cfg.val_interval, config.val_evaluator.get("sample")
    assert limited == expected
    assert config.val_dataloader.dataset.get("sample") == expected[1]
    assert (note is None) == (limited == (interval, None))
    assert configs.limit_validation(Config({**config, "val_share": None})) is None


def test_dataset_and_metric_take_the_same_sample(prepared_folder):
    root = prepared_folder(labels="5")
    part = {"data_root": str(root), "ann_file": "annotations/val_5.json", "sample": 3}
    dataset, metric = CxrDataset(**part), CxrMetric(**part)
    ids = [dataset.get_data_info(place)["img_id"] for place in range(len(dataset))]
    assert ids == [image["id"] for image in metric.ground_truth["images"]]
    assert len(ids) == 3
    assert {annotation["image_id"] for annotation in metric.ground_truth["annotations"]} < set(ids)


def test_a_sample_keeps_the_share_of_images_with_a_box():
    images = [{"id": number} for number in range(1000)]
    truth = {"images": images, "annotations": [{"image_id": number} for number in range(0, 1000, 4)], "categories": []}
    for count in (1, 20, 999, 1000, 2000):
        sample = sample_images(truth, count)
        assert len(sample["images"]) == min(count, 1000)
        assert abs(len(sample["annotations"]) - min(count, 1000) / 4) < 1
        assert sample == sample_images(truth, count)
