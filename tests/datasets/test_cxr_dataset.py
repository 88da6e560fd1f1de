import json
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import PreparedFolder
from mmengine.registry import init_default_scope
from torch.utils.data import DataLoader

from cxr_mmdet.datasets import CxrDataset, MinorityAugmentedDataset, SeededInfiniteSampler
from cxr_mmdet.datasets.draw_plan import plan_draws
from cxr_mmdet.datasets.minority import VARIANT_KEY
from cxr_mmdet.datasets.sampler import Draw
from cxr_mmdet.engine.gate_data import count_studies
from cxr_mmdet.errors import ConfigError, DatasetError
from cxr_mmdet.structures.labels import LABELS_5, MINORITY_LABELS_5

init_default_scope("mmdet")

PIPELINE = [
    dict(type="LoadGreyImage"),
    dict(type="LoadAnnotations", with_bbox=True),
    dict(type="MinorityFlipRot90"),
    dict(type="RandomChoiceResize", scales=[(32, 32), (48, 48), (64, 64)], keep_ratio=True),
    dict(type="GreyToThreeChannels"),
    dict(type="PackRadiograph"),
]


def build(
    root: Path, *, ann_file: str = "annotations/train_5.json", classes: tuple = LABELS_5, **options
) -> CxrDataset:
    return CxrDataset(
        data_root=str(root), ann_file=ann_file, metainfo=dict(classes=classes), pipeline=PIPELINE, **options
    )


def edit(root: Path, change) -> Path:
    path = root / "annotations" / "train_5.json"
    coco = json.loads(path.read_text())
    change(coco)
    path.write_text(json.dumps(coco))
    return root


def test_keeps_images_without_boxes_and_reads_what_the_file_holds(prepared_folder: PreparedFolder):
    root = prepared_folder(train=8)
    dataset = build(root)
    coco = json.loads((root / "annotations" / "train_5.json").read_text())
    assert len(dataset) == 8
    assert sum(not dataset.get_data_info(i)["instances"] for i in range(8)) == 2
    x, y, width, height = coco["annotations"][0]["bbox"]
    assert dataset.get_data_info(0)["instances"] == [
        {
            "bbox": [x, y, x + width, y + height],
            "bbox_label": 0,
            "ignore_flag": 0,
            "votes": 2,
            "score": None,
            "corner_spread": None,
        }
    ]


def test_regions_are_ignored_instances_and_no_boxes_of_their_class(prepared_folder: PreparedFolder):
    root = prepared_folder()
    before = build(root)
    edit(root, lambda coco: coco["annotations"][0].update(iscrowd=1))
    dataset = build(root)
    index = next(i for i in range(len(dataset)) if any(e["ignore_flag"] for e in dataset.get_data_info(i)["instances"]))
    assert len(dataset.get_cat_ids(index)) == len(before.get_cat_ids(index)) - 1
    sample = dataset[index]["data_samples"]
    assert len(sample.ignored_instances) == 1
    assert len(sample.gt_instances) == len(dataset.get_cat_ids(index))


def test_an_image_of_regions_alone_is_told_apart_from_a_normal_one(prepared_folder: PreparedFolder):
    """The gate leaves it out, and the share of normal studies does not count it."""
    root = prepared_folder()
    before = build(root)
    image_id = next(before.get_data_info(i)["img_id"] for i in range(len(before)) if before.get_cat_ids(i))

    def mark(coco: dict) -> None:
        for annotation in coco["annotations"]:
            annotation["iscrowd"] = int(annotation["image_id"] == image_id)

    edit(root, mark)
    dataset = build(root)
    index = next(i for i in range(len(dataset)) if dataset.get_data_info(i)["img_id"] == image_id)
    assert [dataset[i]["data_samples"].undecided for i in range(len(dataset))] == [
        i == index for i in range(len(dataset))
    ]
    assert count_studies(dataset) == (1, 4)
    plan = plan_draws(dataset, normal_share=0.25)
    assert np.flatnonzero(plan.normal).tolist() == [i for i in range(6) if not dataset.get_data_info(i)["instances"]]
    assert plan.shares()[plan.normal].sum() == pytest.approx(0.25)


def test_coverage_travels_to_the_sample_and_normal_is_what_is_known_to_be(prepared_folder: PreparedFolder):
    """Image 1 has a box of class 0 and unknown classes; image 4 has none, and was looked through for class 2 alone."""
    root = prepared_folder()
    assert "coverage" not in build(root).get_data_info(0)
    assert "coverage" not in build(root)[0]["data_samples"]
    assert count_studies(build(root)) == (1, 5)

    def state(coco: dict) -> None:
        coco["images"][0]["neg_category_ids"] = [2]
        coco["images"][3]["neg_category_ids"] = [3]

    dataset = build(edit(root, state))
    first, fourth = (dataset[index]["data_samples"] for index in (0, 3))
    assert first.coverage.tolist() == [2, 2, 0, 0, 0]
    assert fourth.coverage.tolist() == [0, 0, 2, 0, 0]
    assert dataset[1]["data_samples"].coverage.tolist() == [2] * 5
    assert (first.undecided, fourth.undecided) == (False, True)
    assert count_studies(dataset) == (0, 5)

    absent = build(root, partial_labels=False)
    assert "coverage" not in absent[0]["data_samples"]
    assert count_studies(absent) == (1, 5)


def test_an_image_that_the_file_does_not_call_normal_is_undecided(prepared_folder: PreparedFolder):
    """Every class of the set was looked for, but others may be there, as in RSNA's "Not Normal"."""
    dataset = build(edit(prepared_folder(), lambda coco: coco["images"][3].update(normal=False)))
    assert dataset[3]["data_samples"].undecided
    assert count_studies(dataset) == (0, 5)


def test_a_copy_has_the_coverage_of_its_image(prepared_folder: PreparedFolder):
    root = edit(prepared_folder(), lambda coco: coco["images"][0].update(neg_category_ids=[2]))
    minority = LABELS_5[build(root).get_cat_ids(0)[0]]
    copies = MinorityAugmentedDataset(build(root), [minority])
    samples = [copies[index]["data_samples"] for index in range(len(copies) - copies.copies, len(copies))]
    first = [sample.coverage.tolist() for sample in samples if sample.img_id == 1]
    assert first
    assert all(coverage == [2, 2, 0, 0, 0] for coverage in first)


@pytest.mark.parametrize(
    "classes",
    [LABELS_5[:4], LABELS_5[::-1], (*LABELS_5[:4], "Nodule")],
    ids=["fewer", "another order", "misspelt (mmdetection #9611)"],
)
def test_refuses_classes_that_disagree_with_the_file(prepared_folder: PreparedFolder, classes):
    with pytest.raises(DatasetError, match="the config expects"):
        build(prepared_folder(), classes=classes)


def test_takes_the_classes_of_the_file_when_told_none(prepared_folder: PreparedFolder):
    dataset = CxrDataset(data_root=str(prepared_folder()), ann_file="annotations/train_5.json", pipeline=PIPELINE)
    assert dataset.metainfo["classes"] == LABELS_5


def test_names_missing_images(prepared_folder: PreparedFolder):
    root = prepared_folder()
    (root / "images" / "train2.png").unlink()
    with pytest.raises(DatasetError, match=r"1 of 6 images missing in .*train2\.png.*--data-root"):
        build(root)


def test_refuses_an_empty_split(prepared_folder: PreparedFolder):
    root = edit(prepared_folder(), lambda coco: (coco["images"].clear(), coco["annotations"].clear()))
    with pytest.raises(DatasetError, match="no image"):
        build(root)


def test_refuses_a_missing_file(prepared_folder: PreparedFolder):
    with pytest.raises(DatasetError, match="no such file"):
        build(prepared_folder(), ann_file="annotations/train_14.json")


def test_refuses_an_image_of_another_preparation(prepared_folder: PreparedFolder):
    root = edit(prepared_folder(), lambda coco: coco["images"][0].update(width=coco["images"][0]["width"] + 1))
    with pytest.raises(DatasetError, match="two preparations"):
        build(root)[0]


class TestMinorityAugmentedDataset:
    def test_copies_follow_the_originals_and_only_of_minority_images(self, prepared_folder: PreparedFolder):
        base = build(prepared_folder(train=6))
        dataset = MinorityAugmentedDataset(base, MINORITY_LABELS_5)
        minority = [
            index
            for index in range(6)
            if {LABELS_5[label] for label in base.get_cat_ids(index)} & set(MINORITY_LABELS_5)
        ]
        variants = [dataset.get_data_info(index)[VARIANT_KEY] for index in range(len(dataset))]
        assert len(minority) == 2  # images 3 (ILD) and 5 (Nodule/Mass); 4 would be Infiltration but is normal
        assert variants == ["original"] * 6 + ["horizontal_flip", "rotate_90_ccw"] * 2

    def test_copies_are_the_flipped_and_the_turned_image(self, prepared_folder: PreparedFolder):
        plain = [step for step in PIPELINE if step["type"] != "RandomChoiceResize"]
        root = prepared_folder()
        base = CxrDataset(data_root=str(root), ann_file="annotations/train_5.json", pipeline=plain)
        dataset = MinorityAugmentedDataset(base, ["ILD"])
        original, flipped, turned = (dataset[index]["inputs"].numpy() for index in (2, 6, 7))
        np.testing.assert_array_equal(flipped, original[:, :, ::-1])
        np.testing.assert_array_equal(turned, np.rot90(original, axes=(1, 2)))

    def test_refuses_an_unknown_class(self, prepared_folder: PreparedFolder):
        with pytest.raises(ConfigError, match="Nodule is not one of"):
            MinorityAugmentedDataset(build(prepared_folder()), ["Nodule"])

    def test_refuses_a_pipeline_that_would_ignore_the_copies(self, prepared_folder: PreparedFolder):
        pipeline = [step for step in PIPELINE if step["type"] != "MinorityFlipRot90"]
        base = CxrDataset(data_root=str(prepared_folder()), ann_file="annotations/train_5.json", pipeline=pipeline)
        with pytest.raises(ConfigError, match="no MinorityFlipRot90"):
            MinorityAugmentedDataset(base, ["ILD"])


class TestSeededInfiniteSampler:
    def test_draws_are_those_of_mmengine(self):
        from mmengine.dataset import InfiniteSampler

        ours, theirs = SeededInfiniteSampler(range(7), seed=3), InfiniteSampler(range(7), seed=3)
        assert [next(iter(ours.indices)) for _ in range(20)] == [next(iter(theirs.indices)) for _ in range(20)]

    def test_skip_continues_the_same_stream(self):
        whole, rest = SeededInfiniteSampler(range(7), seed=3), SeededInfiniteSampler(range(7), seed=3)
        rest.skip(9)
        expected = [next(whole.indices) for _ in range(15)][9:]
        got = [next(rest.indices) for _ in range(6)]
        assert [(int(draw), draw.seed) for draw in got] == [(int(draw), draw.seed) for draw in expected]

    def test_draws_survive_the_way_to_a_worker(self):
        draw = pickle.loads(pickle.dumps(Draw(5, 77)))
        assert (draw, draw.seed) == (5, 77)

    @pytest.mark.parametrize("workers", [0, 1, 2])
    def test_a_sample_does_not_depend_on_the_worker_that_makes_it(self, prepared_folder: PreparedFolder, workers):
        dataset = MinorityAugmentedDataset(build(prepared_folder()), ["ILD"])

        def draw(number_of_workers: int) -> list[tuple]:
            sampler = SeededInfiniteSampler(dataset, seed=1)
            loader = DataLoader(dataset, sampler=sampler, num_workers=number_of_workers, collate_fn=lambda x: x[0])
            batches = iter(loader)
            samples = [next(batches) for _ in range(12)]
            return [(sample["data_samples"].img_id, tuple(sample["inputs"].shape)) for sample in samples]

        reference = draw(0)
        assert draw(workers) == reference
        assert len({shape for _, shape in reference}) > 3  # the resizing is random indeed

    def test_one_plane_of_an_image_comes_from_a_worker(self, prepared_folder: PreparedFolder):
        loader = DataLoader(build(prepared_folder()), num_workers=1, collate_fn=lambda samples: samples[0]["inputs"])
        inputs = next(iter(loader))
        assert inputs.untyped_storage().nbytes() == inputs[0].nbytes


@pytest.mark.slow  # starts a process
def test_importing_prints_nothing():
    """mmdet's note on OneDL would stand above the config that ``config show`` prints."""
    command = [sys.executable, "-c", "import cxr_mmdet.datasets"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == ""
