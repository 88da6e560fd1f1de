"""A box, the share of readers who drew it and the weight of its corners stay together, whatever a pipeline does."""

import copy
import functools

import cv2
import numpy as np
import pytest
import torch
from conftest import PreparedFolder
from hypothesis import given, settings
from hypothesis import strategies as st
from mmdet.registry import TRANSFORMS
from mmdet.structures.bbox import HorizontalBoxes
from mmengine.registry import init_default_scope

from cxr_mmdet.datasets import CxrDataset
from cxr_mmdet.datasets.minority import VARIANT_KEY, Variant
from cxr_mmdet.datasets.sampler import Draw, seed_draw
from cxr_mmdet.datasets.votes import READERS_KEY, VotedBoxes
from cxr_mmdet.engine.config import annotated_parts, load_config
from cxr_mmdet.errors import ConfigError
from cxr_mmdet.structures.coco import read_coco, write_coco

init_default_scope("mmdet")

READERS = 64
SIDE = 96
LOAD, PACK = dict(type="LoadVotedAnnotations", with_bbox=True), dict(type="PackRadiograph")
BASES = {"14cls": "retina_14cls", "5cls": "retina_5cls", "small": "retina_phantom"}
# What the recipes do not use but a user may put in: steps of mmdet that drop boxes, and one that joins images' boxes.
OTHERS = {
    "crop": [dict(type="RandomCrop", crop_size=(48, 48))],
    "flip, filter": [
        dict(type="RandomFlip", prob=0.5),
        dict(type="FilterAnnotations", min_gt_bbox_wh=(12, 12), keep_empty=False),
    ],
    "expand, crop": [dict(type="Expand"), dict(type="MinIoURandomCrop")],
    "translate": [dict(type="TranslateX", prob=1.0, min_mag=0.3, max_mag=0.6)],
}


@functools.cache
def training_pipeline(name: str) -> list:
    return annotated_parts(load_config(name).train_dataloader)[0]["pipeline"]


def tagged(boxes_xyxy: list, variant: Variant = Variant.ORIGINAL) -> dict:
    """Return an entry whose i-th box has label i, i + 1 of 64 votes and the corner weight i + 1."""
    return {
        "instances": [
            {"bbox": box, "bbox_label": number, "ignore_flag": 0, "votes": number + 1, "corner_weight": number + 1}
            for number, box in enumerate(boxes_xyxy)
        ],
        READERS_KEY: READERS,
        VARIANT_KEY: variant.value,
        "img_id": 1,
    }


def keeps_its_readings(instances) -> bool:
    """Return whether each box has the share and the corner weight that belong to its label."""
    number = (instances.labels + 1).float()
    return torch.equal(instances.vote_shares, number / READERS) and torch.equal(instances.corner_weights, number)


def run(results: dict, steps: list) -> dict | None:
    for step in steps:
        results = TRANSFORMS.build(dict(step))(results)
        if results is None:  # a step that asks for another image
            return None
    return results


@st.composite
def entries(draw):
    """Several boxes, many of them at the border, where a shift drops them."""
    boxes = []
    for _ in range(draw(st.integers(0, 8))):
        x = draw(st.one_of(st.integers(0, 4), st.integers(SIDE - 9, SIDE - 5), st.integers(0, SIDE - 5)))
        y = draw(st.one_of(st.integers(0, 4), st.integers(SIDE - 9, SIDE - 5), st.integers(0, SIDE - 5)))
        boxes.append([x, y, draw(st.integers(x + 1, min(x + 20, SIDE))), draw(st.integers(y + 1, min(y + 20, SIDE)))])
    return tagged(boxes, draw(st.sampled_from(list(Variant))))


@pytest.fixture(scope="module")
def image(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("votes") / "image.png"
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 255, (SIDE, SIDE), dtype=np.uint8))
    return str(path)


@pytest.mark.parametrize("base", BASES)
@settings(max_examples=25)
@given(entry=entries(), seed=st.integers(0, 2**31))
def test_every_box_keeps_its_share_in_the_recipes(image, base, entry, seed):
    pipeline = training_pipeline(BASES[base])
    assert [step["type"] for step in pipeline[:2]] == ["LoadGreyImage", "LoadVotedAnnotations"]
    seed_draw(Draw(0, seed))
    # Smaller than the recipe draws them, for speed.
    resized = [
        dict(step) | {"scales": [(48, 48), (64, 64)]} if step["type"] == "RandomChoiceResize" else step
        for step in pipeline
    ]
    instances = run(entry | {"img_path": image}, resized)["data_samples"].gt_instances
    assert instances.vote_shares.dtype == torch.float32
    assert keeps_its_readings(instances)
    assert type(instances.bboxes) is HorizontalBoxes


@pytest.mark.parametrize("steps", OTHERS.values(), ids=OTHERS)
@settings(max_examples=25)
@given(entry=entries(), seed=st.integers(0, 2**31))
def test_every_box_keeps_its_share_in_other_steps_of_mmdet(steps, entry, seed):
    seed_draw(Draw(0, seed))
    image = {"img": np.zeros((SIDE, SIDE, 3), np.uint8), "img_shape": (SIDE, SIDE), "ori_shape": (SIDE, SIDE)}
    packed = run(entry | image, [LOAD, *steps, PACK])
    if packed is not None:
        instances = packed["data_samples"].gt_instances
        assert keeps_its_readings(instances)


def test_the_affine_step_of_the_small_base_does_drop_boxes(image):
    """Else the property above would hold without a box ever being lost."""
    pipeline = training_pipeline("retina_phantom")
    border = [[0, 10 * number, 3, 10 * number + 3] for number in range(8)]
    kept = []
    for seed in range(20):
        seed_draw(Draw(0, seed))
        labels = run(tagged(border) | {"img_path": image}, pipeline)["data_samples"].gt_instances.labels
        kept.append(tuple(labels.tolist()))
    assert any(0 < len(labels) < 8 for labels in kept)
    assert any(labels and labels != tuple(range(len(labels))) for labels in kept)  # not always the last ones


def test_mosaics_and_mixtures_join_shares():
    entry = tagged([[number, number, number + 30, number + 30] for number in range(6)])
    image = {"img": np.zeros((SIDE, SIDE, 3), np.uint8), "img_shape": (SIDE, SIDE), "ori_shape": (SIDE, SIDE)}
    loaded = run(copy.deepcopy(entry) | image, [LOAD])
    for name, others in (("Mosaic", 3), ("MixUp", 1)):
        results = copy.deepcopy(loaded) | {"mix_results": [copy.deepcopy(loaded) for _ in range(others)]}
        step = dict(type=name, img_scale=(64, 64))
        instances = run(results, [step, PACK])["data_samples"].gt_instances
        assert len(instances) > 6
        assert keeps_its_readings(instances)


def voted(number: int = 4) -> VotedBoxes:
    low = torch.arange(number, dtype=torch.float32)[:, None].expand(-1, 2)
    counts = torch.arange(1, number + 1)
    return VotedBoxes(torch.cat([low, low + 2], dim=1), readings=torch.stack([counts / 8, counts * 2], dim=1))


@pytest.mark.parametrize(
    ("index", "expected"),
    [
        (slice(1, 3), [2, 3]),
        ([3, 0], [4, 1]),
        (1, [2]),
        (np.array([True, False, False, True]), [1, 4]),
        (np.array([2, 2]), [3, 3]),
        (torch.tensor([False, True, False, False]), [2]),
        (torch.tensor([], dtype=torch.long), []),
    ],
    ids=["slice", "list", "one", "bool array", "int array", "bool tensor", "none"],
)
def test_selecting_boxes_selects_their_shares(index, expected):
    chosen = voted()[index]
    assert (chosen.readings[:, 0] * 8).tolist() == (chosen.readings[:, 1] / 2).tolist() == expected
    assert (chosen.tensor[:, 0] + 1).tolist() == expected


def test_copies_share_no_memory():
    for copied in (voted().clone(), copy.deepcopy(voted())):
        assert torch.equal(copied.readings, voted().readings)
    boxes = voted()
    copied = copy.deepcopy(boxes)
    copied.readings[0] = copied.tensor[0] = 0
    assert torch.equal(boxes.readings, voted().readings)
    assert torch.equal(boxes.tensor, voted().tensor)


@pytest.mark.parametrize(
    "lose",
    [
        lambda boxes: HorizontalBoxes(boxes.tensor),  # as mmdet's Albu does
        lambda boxes: VotedBoxes(boxes.tensor),
        lambda boxes: boxes.repeat(2, 1),
        lambda boxes: boxes.__setitem__(slice(0, 1), boxes[1:2]) or boxes,
    ],
    ids=["plain", "without shares", "repeated", "overwritten"],
)
def test_boxes_that_lost_their_shares_are_refused(lose):
    results = run(tagged([[1, 1, 9, 9], [2, 2, 5, 5]]) | {"img": np.zeros((16, 16, 3), np.uint8)}, [LOAD])
    results["gt_bboxes"] = lose(results["gt_bboxes"])
    with pytest.raises(ConfigError, match="makes new boxes, so that the readers' votes for them are lost"):
        run(results, [PACK])


def dataset(root, load: str = "LoadVotedAnnotations") -> CxrDataset:
    pipeline = training_pipeline("retina_phantom")
    steps = [dict(step) | ({"type": load} if step["type"] == LOAD["type"] else {}) for step in pipeline]
    return CxrDataset(data_root=str(root), ann_file="annotations/train_5.json", pipeline=steps)


def name_readers(root, readers=("R1", "R2", "R3")) -> None:
    path = root / "annotations" / "train_5.json"
    coco = read_coco(path)
    for image in coco["images"]:
        image["readers"] = list(readers)
    write_coco(path, coco)


def test_a_sample_of_a_prepared_folder(prepared_folder: PreparedFolder):
    root = prepared_folder()
    name_readers(root)
    voted_dataset = dataset(root)
    samples = [voted_dataset[Draw(index, 7)]["data_samples"].gt_instances for index in range(6)]
    shares = [share for instances in samples for share in instances.vote_shares.tolist()]
    assert shares == pytest.approx([2 / 3] * len(shares))
    assert len(shares) == 5
    assert len(samples[3].vote_shares) == 0  # a normal radiograph


def test_the_score_of_a_consensus_stands_for_the_share(prepared_folder: PreparedFolder):
    root = prepared_folder()
    name_readers(root)
    path = root / "annotations" / "train_5.json"
    coco = read_coco(path)
    for annotation in coco["annotations"]:
        annotation["score"] = 0.25
    write_coco(path, coco)
    scored_dataset = dataset(root)
    samples = [scored_dataset[Draw(index, 7)]["data_samples"].gt_instances for index in range(6)]
    shares = [share for instances in samples for share in instances.vote_shares.tolist()]
    assert shares == pytest.approx([0.25] * 5)
    assert all((instances.corner_weights == 1).all() for instances in samples)  # the file states no spread


def test_uncertain_sides_weigh_less_and_all_boxes_one_on_average(prepared_folder: PreparedFolder):
    root = prepared_folder()
    name_readers(root)
    path = root / "annotations" / "train_5.json"
    coco = read_coco(path)
    spreads = [[0, 0, 0, 0], [0.1] * 4, [0.2, 0, 0, 0], [5.0] * 4]
    for annotation, spread, score in zip(coco["annotations"], spreads, (0.9, 0.5, 0.3, 0.1), strict=False):
        annotation |= {"corner_spread": spread, "score": score}
    write_coco(path, coco)
    data = dataset(root)
    boxes = [each for index in range(len(data)) for each in data.get_data_info(index)["instances"]]
    assert "corner_weight" not in boxes[4]  # without a spread: 1
    weights = np.array([each["corner_weight"] for each in boxes[:4]])
    # The detector's own variance is 0.1²; 5 counts as 0.3, so that no box weighs less than a tenth of another.
    assert weights / weights[0] == pytest.approx([1, 1 / 2, 1 / 2, 1 / 10])
    assert weights @ [0.9, 0.5, 0.3, 0.1] == pytest.approx(0.9 + 0.5 + 0.3 + 0.1)


def test_without_readers_samples_are_what_mmdet_makes_of_them(prepared_folder: PreparedFolder):
    root = prepared_folder()
    ours, mmdets = dataset(root), dataset(root, "LoadAnnotations")
    for index in range(len(ours)):
        got, expected = ours[Draw(index, 3)], mmdets[Draw(index, 3)]
        assert torch.equal(got["inputs"], expected["inputs"])
        assert set(got["data_samples"].gt_instances.keys()) == {"bboxes", "labels"}
        boxes, mmdets_boxes = (each["data_samples"].gt_instances.bboxes for each in (got, expected))
        assert torch.equal(boxes.tensor, mmdets_boxes.tensor)


def test_votes_change_nothing_else_of_a_sample(prepared_folder: PreparedFolder):
    root = prepared_folder()
    before = dataset(root)
    name_readers(root)
    after = dataset(root)
    for index in range(6):
        sample, got = before[Draw(index, 3)], after[Draw(index, 3)]
        assert torch.equal(got["inputs"], sample["inputs"])
        for key in ("bboxes", "labels"):
            one, other = (each["data_samples"].gt_instances[key] for each in (got, sample))
            assert torch.equal(getattr(one, "tensor", one), getattr(other, "tensor", other))
