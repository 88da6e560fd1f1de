import cv2
import pytest
import torch
from conftest import PreparedFolder

from benchmarks import pipeline
from benchmarks.pipeline import benchmark_pipeline, one_thread
from benchmarks.stock import OURS, STOCK
from cxr_mmdet.datasets.sampler import Draw
from cxr_mmdet.engine.config import load_config
from cxr_mmdet.errors import ConfigError, DatasetError

TRAIN = "annotations/train_5.json"


@pytest.fixture
def config():
    scales = "train_dataloader.dataset.pipeline.2.scales=[(133,64),(133,72),(133,80)]"
    return load_config("retina_14cls", cfg_options=[scales])


def test_both_sides_make_the_same_model_input(prepared_folder: PreparedFolder, config):
    stock, ours = pipeline._build_sides(config, prepared_folder(train=8), TRAIN)
    assert (stock.name, ours.name) == (STOCK, OURS)
    shapes = set()
    for index in range(8):
        for seed in range(4):
            expected, got = (side.model_input(Draw(index, seed)) for side in (stock, ours))
            assert torch.equal(got["inputs"], expected["inputs"])
            sample, stock_sample = got["data_samples"][0], expected["data_samples"][0]
            assert torch.equal(sample.gt_instances.bboxes, stock_sample.gt_instances.bboxes)
            assert torch.equal(sample.gt_instances.labels, stock_sample.gt_instances.labels)
            assert (sample.img_shape, sample.ori_shape, sample.scale_factor, sample.pad_shape) == (
                stock_sample.img_shape,
                stock_sample.ori_shape,
                stock_sample.scale_factor,
                stock_sample.pad_shape,
            )
            shapes.add((index, sample.img_shape))
    assert len(shapes) > 16  # sizes are drawn indeed


def test_the_stock_side_holds_no_part_of_ours(prepared_folder: PreparedFolder, config):
    stock, _ = pipeline._build_sides(config, prepared_folder(), TRAIN)
    parts = [stock.dataset, stock.preprocessor, *stock.dataset.pipeline.transforms]
    assert not [part for part in parts if type(part).__module__.startswith("cxr_mmdet")]


def test_normal_studies_count_on_both_sides(prepared_folder: PreparedFolder, config):
    sides = pipeline._build_sides(config, prepared_folder(train=8), TRAIN)
    assert [len(side.dataset) for side in sides] == [8, 8]


def test_the_report(prepared_folder: PreparedFolder, config):
    report = benchmark_pipeline(config, prepared_folder(), rounds=2, images=2)
    assert [comparison.title for comparison in report.comparisons] == [
        "From file to sample",
        "From file to model input",
    ]
    for comparison in report.comparisons:
        assert [(entry.name, len(entry.cpu_s)) for entry in comparison.timings] == [(STOCK, 2), (OURS, 2)]
    steps = {step.step: step for step in report.steps}
    assert list(steps) == [
        "look up the entry",
        "LoadGreyImage",
        "LoadVotedAnnotations",
        "RandomChoiceResize",
        "GreyToThreeChannels",
        "PackRadiograph",
        "preprocess",
    ]
    assert [name for name, step in steps.items() if step.stock_s is None] == ["GreyToThreeChannels"]


def test_rounds_take_the_next_images_and_start_again():
    seen: list[tuple[int, int]] = []
    draws = [Draw(position % 3, position) for position in range(4)]
    run = pipeline._round_of(lambda draw: seen.append((int(draw), draw.seed)), draws, 2)
    run(0)
    run(1)
    assert seen == [(0, 0), (1, 1), (2, 2), (0, 3)]


def test_unequal_work_is_not_compared(prepared_folder: PreparedFolder, config, monkeypatch):
    real = pipeline.stock_steps
    monkeypatch.setattr(pipeline, "stock_steps", lambda steps: [*real(steps)[:2], None, *real(steps)[3:]])
    with pytest.raises(ConfigError, match="do not give the same model input"):
        benchmark_pipeline(config, prepared_folder(), rounds=1, images=1)


def test_a_folder_without_training_files(tmp_path, config):
    with pytest.raises(DatasetError, match=r"holds no annotations/train_\*\.json"):
        benchmark_pipeline(config, tmp_path)


def test_one_thread_is_taken_back():
    before = cv2.getNumThreads(), torch.get_num_threads()
    inside = []

    def fail():
        with one_thread():
            inside.append((cv2.getNumThreads(), torch.get_num_threads()))
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert inside == [(1, 1)]
    assert (cv2.getNumThreads(), torch.get_num_threads()) == before
