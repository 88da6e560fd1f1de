"""Phantoms among the training images: their share, their classes, and draws that can be repeated."""

import json

import numpy as np
import pytest
from conftest import PHANTOMS
from mmdet.registry import DATA_SAMPLERS, DATASETS, MODELS
from mmengine.registry import init_default_scope

from cxr_mmdet.datasets.draw_plan import plan_draws
from cxr_mmdet.datasets.phantoms import relabel
from cxr_mmdet.engine import config as configs
from cxr_mmdet.engine.checks import heed_coverage, innermost
from cxr_mmdet.errors import ConfigError
from cxr_mmdet.preparation.phantoms import prepare_phantoms
from cxr_mmdet.structures.coco import check_coco, read_coco
from cxr_mmdet.structures.coverage import COVERAGE_KEY, Coverage
from cxr_mmdet.structures.labels import LABELS_5


def build(root, options, switches=("phantoms",)):
    config = configs.load_config("retina_small", data_root=root, switches=switches, cfg_options=options)
    init_default_scope("mmdet")
    return config, DATASETS.build(config.train_dataloader.dataset)


@pytest.mark.parametrize(("train", "share"), [(2, 0.5), (20, 0.5), (6, 0.25), (3, 0.8)])
def test_phantoms_are_the_share_of_a_pass_that_was_asked_for(prepared_folder, phantom_cache, train, share):
    _, dataset = build(prepared_folder(train=train), [*phantom_cache, f"train_dataloader.dataset.share={share}"])
    entries = [dataset.get_data_info(index) for index in range(len(dataset))]
    phantoms = [entry["img_path"] for entry in entries if "cache" in entry["img_path"]]
    radiographs = [entry["img_path"] for entry in entries if "cache" not in entry["img_path"]]
    assert len(phantoms) / len(entries) == pytest.approx(share, abs=0.5 / len(entries))
    assert len(set(radiographs)) == train
    assert len(radiographs) % train == 0
    assert dataset.copies == len(entries) - len(set(radiographs)) - len(set(phantoms))
    if share == 0.5:  # few radiographs recur so that phantoms do not, and the other way round
        assert (len(phantoms) == len(set(phantoms))) == (train == 2)


def test_a_draw_gives_the_same_sample_each_time_and_another_draw_another(prepared_folder, phantom_cache):
    config, dataset = build(prepared_folder(train=2), phantom_cache)
    sampler = DATA_SAMPLERS.build(config.train_dataloader.sampler, default_args=dict(dataset=dataset, seed=1))
    drawn = [next(sampler.indices) for _ in range(60)]
    twice = next([one, other] for one in drawn for other in drawn if one == other and one.seed != other.seed)
    first, second = (dataset[draw]["inputs"].numpy() for draw in twice)
    assert np.array_equal(first, dataset[twice[0]]["inputs"].numpy())
    assert not np.array_equal(first, second)  # other transforms


def test_the_classes_are_those_of_the_data(prepared_folder, phantom_cache):
    _, dataset = build(prepared_folder(), phantom_cache)
    assert dataset.metainfo["classes"] == LABELS_5
    radiographs, phantoms = dataset.datasets
    assert list(innermost(dataset)) == [radiographs, phantoms]
    drawn = read_coco(phantoms.ann_file)
    names = {category["id"]: category["name"] for category in drawn["categories"]}
    expected = sorted(
        names[box["category_id"]] for box in drawn["annotations"] if names[box["category_id"]] in LABELS_5
    )
    found = sorted(LABELS_5[label] for index in range(len(phantoms)) for label in phantoms.get_cat_ids(index))
    assert found == expected
    assert found, "the phantoms of this test hold no finding of the five"


def test_classes_that_phantoms_do_not_have_are_not_learned_as_absent(prepared_folder, phantom_cache):
    root = prepared_folder(labels=("Rib fracture", "lung_opacity"), name="auto")
    config, dataset = build(root, phantom_cache)
    radiographs, phantoms = dataset.datasets
    assert COVERAGE_KEY not in radiographs.get_data_info(0)
    for index in range(len(phantoms)):
        assert phantoms.get_data_info(index)[COVERAGE_KEY].tolist() == [Coverage.UNKNOWN, Coverage.EXHAUSTIVE]
    note = heed_coverage(MODELS.build(config.model), dataset)
    assert note.startswith(
        f"{phantoms.ann_file}: {len(phantoms)} of {len(phantoms) + 6} images were not looked through"
    )
    _, absent = build(root, phantom_cache, ("unknown_as_absent", "phantoms"))
    assert heed_coverage(None, absent) is None


def test_relabelled_annotations_are_a_valid_file(phantom_cache, tmp_path):
    file = prepare_phantoms(*PHANTOMS) / "annotations/train_auto.json"
    coco = relabel(read_coco(file), ["Heart", "Rib fracture", "left  LUNG"])
    check_coco(json.loads(json.dumps(coco)), "relabelled")
    lungs = [box for box in coco["annotations"] if box["category_id"] == 3]
    assert len(lungs) == len(coco["images"])
    assert [category["name"] for category in coco["categories"]] == ["Heart", "Rib fracture", "left  LUNG"]


def test_data_of_which_phantoms_have_no_class_are_refused(prepared_folder, phantom_cache):
    root = prepared_folder(labels=("Rib fracture",), name="auto")
    with pytest.raises(ConfigError, match=r"none of the classes Rib fracture is drawn on phantoms, which have Aortic"):
        build(root, phantom_cache)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("share=0", "share is 0, expected above 0 and below 1"),
        ("share=1", "share is 1, expected above 0 and below 1"),
        ("images=9", "images is 9, expected at least 10"),
    ],
)
def test_options_out_of_range_are_refused(prepared_folder, option, message):
    with pytest.raises(ConfigError, match=message):
        build(prepared_folder(), [f"train_dataloader.dataset.{option}"])


def test_what_wraps_the_radiographs_may_be_of_mmengine(prepared_folder, phantom_cache):
    config = configs.load_config("retina_small", data_root=prepared_folder(train=3), switches=["phantoms"])
    settings = config.train_dataloader.dataset
    settings.update(images=PHANTOMS[0], size=PHANTOMS[1], seed=PHANTOMS[2])
    settings.dataset = dict(type="RepeatDataset", times=2, dataset=settings.dataset)
    init_default_scope("mmdet")
    dataset = DATASETS.build(settings)
    plan = plan_draws(dataset)
    assert len(plan.labels) == len(dataset)
    assert any(plan.labels[: len(dataset) // 2])
    assert dataset[0]["inputs"].shape[0] == 3


@pytest.mark.parametrize("order", [("phantoms", "minority_copies"), ("minority_copies", "phantoms")])
def test_copies_of_rare_findings_and_phantoms_go_together(prepared_folder, phantom_cache, order):
    _, dataset = build(prepared_folder(train=20), phantom_cache, order)
    radiographs, phantoms = dataset.datasets
    assert radiographs.copies > 0
    assert dataset.copies > radiographs.copies
    assert phantoms.get_data_info(0)["img_path"].startswith(str(phantoms.data_root))


def test_phantoms_of_all_classes_ask_for_no_partial_labels(prepared_folder, phantom_cache):
    _, dataset = build(prepared_folder(labels=("Left lung", "Right lung"), name="auto"), phantom_cache)
    assert heed_coverage(None, dataset) is None
