"""A gate's training data: counted as it will be trained on, and refused where it cannot be learnt from."""

from __future__ import annotations

from fractions import Fraction

import pytest
from mmdet.registry import DATASETS
from mmengine.registry import init_default_scope
from torch import nn

import cxr_mmdet.datasets  # noqa: F401 (registers them)
from cxr_mmdet.datasets.minority import COPY_KEY
from cxr_mmdet.engine.config import load_config
from cxr_mmdet.engine.gate_data import count_studies, prepare_gate
from cxr_mmdet.errors import ConfigError, DatasetError
from cxr_mmdet.models.abnormality_gate import FeatureGate


class Studies:
    """A dataset that knows how many boxes each entry holds, and which are copies."""

    ann_file = "annotations/train_5.json"

    def __init__(self, *boxes: int, copies: int = 0) -> None:
        self.entries = [{"instances": [{}] * count} for count in boxes]
        self.entries += [{"instances": [{}], COPY_KEY: True}] * copies

    def __len__(self) -> int:
        return len(self.entries)

    def get_data_info(self, index: int) -> dict:
        return self.entries[index]


class Wrapper:
    """A dataset around another, without annotations of its own."""

    def __init__(self, dataset) -> None:
        self.dataset = dataset


class Gated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate = FeatureGate([4])


def test_images_that_were_not_looked_through_are_no_normal_ones():
    studies = Studies(0, 1)
    assert count_studies(studies) == (1, 1)
    studies.entries[0]["undecided"] = True
    assert count_studies(studies) == (0, 1)
    with pytest.raises(DatasetError, match="holds a finding or was not looked through for all classes"):
        prepare_gate(Gated(), studies)


@pytest.mark.parametrize("wrap", [lambda dataset: dataset, Wrapper, lambda dataset: Wrapper(Wrapper(dataset))])
def test_copies_do_not_count(wrap):
    assert count_studies(wrap(Studies(0, 2, 1, 1, copies=5))) == (1, 3)


def test_a_gate_starts_at_the_share_of_abnormal_studies():
    model = Gated()
    prepare_gate(model, Studies(0, 2, 1, 1, copies=5))
    assert model.gate.prior == 3 / 4
    model.gate.init_weights()
    assert model.gate.bias.sigmoid().item() == pytest.approx(3 / 4)


@pytest.mark.parametrize(
    ("boxes", "words"),
    [
        ((1, 2, 1), ("every training image holds a finding", "normal ones", "without --drop-normals")),
        ((0, 0), ("no training image holds a finding", "abnormal ones", "labels that occur")),
    ],
)
@pytest.mark.parametrize("wrap", [lambda dataset: dataset, Wrapper])
def test_one_kind_of_study_is_refused_in_a_sentence(boxes, words, wrap):
    with pytest.raises(DatasetError) as caught:
        prepare_gate(Gated(), wrap(Studies(*boxes)))
    message = str(caught.value)
    assert message.startswith("annotations/train_5.json: ")
    assert message.endswith("or choose the recipe without a gate.")
    assert all(word in message for word in words)


def test_drawing_no_normal_study_is_refused_in_a_sentence():
    with pytest.raises(ConfigError, match=r"normal_share is 0, .* boxes_from_abnormal in place of abnormal_only"):
        prepare_gate(Gated(), Studies(0, 1), Fraction(0))
    prepare_gate(Gated(), Studies(0, 1), Fraction(1, 8))
    prepare_gate(nn.Linear(1, 1), Studies(0, 1), Fraction(0))


def test_without_a_gate_nothing_is_asked():
    prepare_gate(nn.Linear(1, 1), None)


def test_a_prepared_folder_and_its_virtual_copies(prepared_folder):
    """Six images, of which the fourth is normal; copies of those with ILD, Infiltration or Nodule/Mass (3 and 5)."""
    init_default_scope("mmdet")
    dataset = DATASETS.build(load_config("retina_5cls", data_root=prepared_folder()).train_dataloader.dataset)
    assert len(dataset) == 6 + 2 * 2
    assert count_studies(dataset) == (1, 5)
    packed = [dataset[index]["data_samples"] for index in (2, 3, 6, 7)]
    assert [sample.metainfo["virtual_copy"] for sample in packed] == [False, False, True, True]
    assert [len(sample.gt_instances) > 0 for sample in packed] == [True, False, True, True]
