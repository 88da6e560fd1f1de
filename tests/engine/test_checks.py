"""Votes as weights, from the prepared folder to the weights of a run; data that votes cannot weigh is refused."""

from pathlib import Path

import pytest
import torch
from conftest import PreparedFolder
from detectors import build as build_small
from mmengine.dataset import ConcatDataset
from mmengine.registry import init_default_scope
from torch import nn
from training_runs import error_of, train_here

from cxr_mmdet.datasets import CxrDataset, MinorityAugmentedDataset
from cxr_mmdet.datasets.votes import READERS_KEY
from cxr_mmdet.engine.checks import (
    _shares_of_votes,
    check_numbers,
    check_types,
    check_votes,
    heed_coverage,
    heed_regions,
    innermost,
)
from cxr_mmdet.engine.config import annotated_parts, load_config
from cxr_mmdet.errors import ConfigError, CxrError, DatasetError
from cxr_mmdet.models.partial_labels import MaskedLoss
from cxr_mmdet.models.vote_weights import VoteWeightedHead
from cxr_mmdet.structures.coco import read_coco, write_coco

init_default_scope("mmdet")

VOTES = "model.bbox_head.type=SteadyVoteWeightedRetinaHead"


def name_readers(root: Path, *readers: str, votes: int | None = None) -> Path:
    """Name the readers of the training images; the votes of boxes go round, or are all alike."""
    path = root / "annotations" / "train_5.json"
    coco = read_coco(path)
    for image in coco["images"]:
        image["readers"] = list(readers)
    for number, annotation in enumerate(coco["annotations"]):
        annotation["votes"] = votes or 1 + number % len(readers)
    write_coco(path, coco)
    return root


def weights(work_dir: Path) -> dict[str, torch.Tensor]:
    return torch.load(work_dir / "iter_3.pth", map_location="cpu", weights_only=False)["state_dict"]


@pytest.mark.slow
def test_training_with_votes_off_flat_and_on(prepared_folder: PreparedFolder, tmp_path: Path):
    """Weights of 1 are those of training without votes, which does not look at votes; others are not."""
    root = prepared_folder()
    train_here(root, tmp_path / "before")
    name_readers(root, "R1", "R2", "R3")
    train_here(root, tmp_path / "off")
    train_here(root, tmp_path / "flat", VOTES, "model.bbox_head.votes.power=0")
    train_here(root, tmp_path / "on", VOTES)
    before, off, flat, on = (weights(tmp_path / name) for name in ("before", "off", "flat", "on"))
    for other in (off, flat, on):
        assert other.keys() == before.keys()
    assert all(torch.equal(off[name], before[name]) for name in before)
    assert all(torch.equal(flat[name], before[name]) for name in before)
    assert not torch.equal(on["bbox_head.retina_cls.weight"], before["bbox_head.retina_cls.weight"])


def refused(root: Path, tmp_path: Path, code: int, *options: str) -> str:
    message = error_of(train_here(root, tmp_path / "run", *options, code=code))
    assert not list((tmp_path / "run").glob("*.pth"))
    return message


def test_a_file_that_names_no_readers_is_refused_before_training(prepared_folder: PreparedFolder, tmp_path: Path):
    message = refused(prepared_folder(), tmp_path, 1, VOTES)
    assert "train_5.json: does not name the readers of every image" in message
    assert "tools/prepare_data.py build --force" in message


def test_votes_of_one_reader_are_refused_before_training(prepared_folder: PreparedFolder, tmp_path: Path):
    message = refused(name_readers(prepared_folder(), "R1"), tmp_path, 1, VOTES)
    assert "train_5.json: all boxes have the same share of votes (1), as where one reader read each image" in message
    assert "several readers" in message


def dataset(root: Path, load: str = "LoadVotedAnnotations") -> CxrDataset:
    pipeline = annotated_parts(load_config("retina_phantom").train_dataloader)[0]["pipeline"]
    steps = [dict(step) | ({"type": load} if step["type"] == "LoadVotedAnnotations" else {}) for step in pipeline]
    return CxrDataset(data_root=str(root), ann_file="annotations/train_5.json", pipeline=steps)


class Voting(VoteWeightedHead):
    """The least that asks for votes."""


def problem(data: object, model: nn.Module | None = None, error: type[CxrError] = DatasetError) -> str:
    with pytest.raises(error) as caught:
        check_votes(nn.Sequential(model or Voting()), data)
    return str(caught.value)


def test_boxes_that_are_not_fused_are_refused(prepared_folder: PreparedFolder):
    message = problem(dataset(name_readers(prepared_folder(), "R1", "R2", "R3", votes=1)))
    assert "share of votes (0.33), as where readers are not fused" in message


def test_a_pipeline_that_loads_no_votes_is_refused(prepared_folder: PreparedFolder):
    data = dataset(name_readers(prepared_folder(), "R1", "R2"), "LoadAnnotations")
    assert "put LoadVotedAnnotations in the place of LoadAnnotations" in problem(data, error=ConfigError)


def test_wrapped_datasets_are_looked_into(prepared_folder: PreparedFolder):
    data = dataset(prepared_folder())
    joined, copies = ConcatDataset([data, data]), MinorityAugmentedDataset(data, ["ILD"])
    assert list(innermost(joined)) == [data, data]
    assert list(innermost(copies)) == [data]
    for wrapped in (joined, copies):
        assert "does not name the readers" in problem(wrapped)


@pytest.mark.parametrize("readers", [("R1", "R2"), ("R1", "R2", "R3")])
def test_votes_that_differ_are_accepted(prepared_folder: PreparedFolder, readers):
    check_votes(Voting(), dataset(name_readers(prepared_folder(), *readers)))


def test_two_files_of_one_share_each_are_accepted_together(prepared_folder: PreparedFolder):
    root = name_readers(prepared_folder(), "R1")
    one = dataset(root)
    check_votes(Voting(), ConcatDataset([one, dataset(name_readers(root, "R1", "R2", votes=1))]))


def test_corners_without_a_spread_are_refused(prepared_folder: PreparedFolder):
    root = name_readers(prepared_folder(), "R1", "R2")
    weighing = Voting(votes={"corners": True})
    assert "states no corner_spread, so that weighing by it changes nothing" in problem(dataset(root), weighing)
    path = root / "annotations" / "train_5.json"
    coco = read_coco(path)
    coco["annotations"][0]["corner_spread"] = [0.1, 0.1, 0.2, 0.1]
    write_coco(path, coco)
    check_votes(weighing, dataset(root))
    write_coco(path, coco | {"annotations": []})
    check_votes(weighing, dataset(root))


def test_a_model_without_votes_takes_any_data(prepared_folder: PreparedFolder):
    root = prepared_folder()
    check_votes(nn.Linear(1, 1), dataset(root, "LoadAnnotations"))
    check_votes(nn.Linear(1, 1), dataset(name_readers(root, "R1")))


def test_data_without_a_box_has_no_votes_to_refuse(prepared_folder: PreparedFolder):
    root = name_readers(prepared_folder(), "R1", "R2")
    path = root / "annotations" / "train_5.json"
    write_coco(path, read_coco(path) | {"annotations": []})
    check_votes(Voting(), dataset(root))


def test_regions_that_a_detector_would_learn_as_background_are_refused(prepared_folder: PreparedFolder):
    root = prepared_folder()
    path = root / "annotations" / "train_5.json"
    dataset = CxrDataset(data_root=str(root), ann_file="annotations/train_5.json")
    heed_regions(nn.Linear(1, 1), dataset)
    coco = read_coco(path)
    coco["annotations"][0]["iscrowd"] = 1
    write_coco(path, coco)
    dataset = CxrDataset(data_root=str(root), ann_file="annotations/train_5.json")
    with pytest.raises(ConfigError, match="holds regions to ignore"):
        heed_regions(nn.Linear(1, 1), dataset)


def partly_labelled(root: Path, images: int, **options) -> CxrDataset:
    """Return the training set, of which nobody looked through so many images for all classes."""
    path = root / "annotations" / "train_5.json"
    coco = read_coco(path)
    for image in coco["images"]:
        image.pop("neg_category_ids", None)
    for image in coco["images"][:images]:
        image["neg_category_ids"] = []
    write_coco(path, coco)
    return CxrDataset(data_root=str(root), ann_file="annotations/train_5.json", **options)


def test_partly_labelled_data_mask_the_losses_and_are_told(prepared_folder: PreparedFolder):
    root = prepared_folder(train=12)
    retina, faster = (build_small(kind) for kind in ("retina", "faster"))
    assert heed_coverage(retina, partly_labelled(root, 0)) is None
    assert not isinstance(retina.bbox_head.loss_cls, MaskedLoss)
    assert heed_coverage(retina, partly_labelled(root, 0, partial_labels=True)) is None
    assert isinstance(retina.bbox_head.loss_cls, MaskedLoss)
    assert "4 of 12 images were not looked through" in heed_coverage(faster, partly_labelled(root, 4))
    assert isinstance(faster.roi_head.bbox_head.loss_cls, MaskedLoss)
    assert isinstance(faster.rpn_head.loss_cls, MaskedLoss)

    faster = build_small("faster")
    assert heed_coverage(faster, partly_labelled(root, 12)).endswith("Its RPN learns background from all images.")
    assert not isinstance(faster.rpn_head.loss_cls, MaskedLoss)
    assert heed_coverage(faster, partly_labelled(root, 12, partial_labels=False)) is None
    with pytest.raises(ConfigError, match="give --with unknown_as_absent"):
        heed_coverage(nn.Linear(1, 1), partly_labelled(root, 1))


def test_partial_labels_on_fully_labelled_data_train_the_same_weights(prepared_folder: PreparedFolder, tmp_path):
    root = prepared_folder()
    for name, more in {"plain": (), "partial": ("--with", "partial_labels")}.items():
        train_here(root, tmp_path / name, "default_hooks.checkpoint.interval=3", more=more)
    plain, partial = (weights(tmp_path / name) for name in ("plain", "partial"))
    assert plain.keys() == partial.keys()
    assert all(torch.equal(value, partial[name]) for name, value in plain.items())
    partly_labelled(root, 5)
    said = train_here(root, tmp_path / "auto", "default_hooks.checkpoint.interval=3")
    assert "5 of 6 images were not looked through for all classes" in " ".join(said.split())
    assert "unknown" in said
    auto = weights(tmp_path / "auto")
    assert not all(torch.equal(value, auto[name]) for name, value in plain.items())
    absent = load_config("retina_phantom", data_root=root, switches=["minority_copies", "unknown_as_absent"])
    assert absent.train_dataloader.dataset.dataset.partial_labels is False


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("optim_wrapper.optimizer.type=Adamm", ("optim_wrapper.optimizer.type is Adamm", "did you mean Adam?")),
        ("param_scheduler.0.type=LinearRL", ("param_scheduler[0].type is LinearRL", "did you mean LinearLR?")),
        ("param_scheduler=[{'type':'Foo'}]", ("param_scheduler[0] is", "expected a dict with a type")),
        ("default_hooks.checkpoint.interval=0", ("default_hooks.checkpoint.interval is 0", "at least 1")),
        ("optim_wrapper.clip_grad.max_norm=-1", ("optim_wrapper.clip_grad.max_norm is -1", "a gradient norm")),
    ],
)
def test_types_and_numbers_of_a_config_are_checked_before_anything_is_built(option, words):
    config = load_config("retina_phantom", load_from="none", cfg_options=[option])
    check = check_types if "type" in option else check_numbers
    with pytest.raises(ConfigError) as caught:
        check(config)
    assert all(word in str(caught.value) for word in words)


class Scored(list):
    ann_file = "train.json"

    def get_data_info(self, index):
        return self[index]


def test_equal_votes_with_scores_of_their_own_can_be_weighed():
    boxes = [{"votes": 1, "score": score, "ignore_flag": 0} for score in (0.2, 0.6)]
    assert _shares_of_votes(Scored([{READERS_KEY: 3, "instances": boxes}])) == {0.2, 0.6}
