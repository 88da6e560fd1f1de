"""Our predictions are mmdet's own, for both architectures, square or not, at any size."""

from __future__ import annotations

import math
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import detectors
import mmdet_oracle
import modern
import numpy as np
import pytest
import torch
from conftest import write_jpeg2000
from detectors import KINDS, build, bundle_of, checkpoint_of, config_of, make_image, model_of, write_image
from mmdet_oracle import assert_same

from cxr_mmdet.dicom.radiograph import read_radiograph
from cxr_mmdet.errors import CheckpointError, DicomError, NotFiniteError, UsageError
from cxr_mmdet.inference.backends.base import Streams
from cxr_mmdet.inference.candidates import find_candidates
from cxr_mmdet.inference.export.export import ExportOptions, export_model
from cxr_mmdet.inference.fusion import Ensemble
from cxr_mmdet.inference.predictor import Predictor, Thresholds, as_radiograph
from cxr_mmdet.structures.enums import ExportFormat

SIZES = [(150, 120), (97, 301), (260, 131), (33, 40)]


def mmdet_says(kind: str, path, model=None):
    """Return what :func:`mmdet_oracle.mmdet_says` of a small detector."""
    return mmdet_oracle.mmdet_says(model or model_of(kind), config_of(kind), path)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", SIZES)
def test_a_checkpoint_predicts_as_mmdet_does(tmp_path, kind, size):
    path = write_image(tmp_path / "a.png", *size)
    boxes, scores, labels = mmdet_says(kind, path)
    assert len(labels) > 10, "or the test says nothing"
    assert len(set(scores.tolist())) > 10
    assert_same(Predictor.load(checkpoint_of(kind)).predict(path), boxes, scores, labels)


@pytest.mark.parametrize("kind", ["retina", "faster"])
def test_thresholds_are_those_of_mmdet(tmp_path, kind):
    path = write_image(tmp_path / "a.png", 150, 120)
    model = build(kind)
    test = model.roi_head.test_cfg if kind == "faster" else model.bbox_head.test_cfg
    test.score_thr, test.nms.iou_threshold = 0.2, 0.15
    boxes, scores, labels = mmdet_says(kind, path, model)
    assert len(labels) > 3
    predictor = Predictor.load(checkpoint_of(kind))
    found = predictor.predict(path, score_threshold=0.2, nms_iou=0.15)
    assert_same(found, boxes, scores, labels)
    assert len(found) < len(predictor.predict(path))


@pytest.mark.parametrize("kind", ["retina_wide", "faster_wide", "gfl"])
@pytest.mark.parametrize("form", ["onnx", "openvino"])
def test_an_exported_bundle_predicts_as_mmdet_does(tmp_path, kind, form):
    predictor = Predictor.load(bundle_of(kind, form))
    for size in SIZES if form == "onnx" else SIZES[1:3]:  # OpenVINO compiles anew for each
        path = write_image(tmp_path / "a.png", *size)
        assert_same(predictor.predict(path), *mmdet_says(kind, path))


@pytest.mark.parametrize("form", ["onnx", "openvino", "torch"])
@pytest.mark.parametrize("name", ["atss", "vfnet", "rtmdet_s", "rtmdet_objectness", "cascade_rcnn", "dino_r50"])
def test_an_exported_modern_detector_predicts_as_mmdet_does(tmp_path, name, form):
    predictor = Predictor.load(modern.bundle_of(name, form))
    counts = []
    for size in [(150, 120), (97, 301), (33, 40)][: 1 if form == "openvino" else 3]:
        path = write_image(tmp_path / "a.png", *size)
        expected = mmdet_oracle.mmdet_says(modern.model_of(name), modern.config_of(name), path)
        kept = expected[1] > predictor.model.spec.score_threshold  # mmdet's ATSS looks before centerness lowers scores
        slack = 5 if name == "cascade_rcnn" else 1  # each stage starts from the rounding of the one before
        assert_same(predictor.predict(path), *(part[kept] for part in expected), slack=slack)
        counts.append(kept.sum())
    assert max(counts) > 15, "or the test says nothing"


def test_a_torch_bundle_is_its_checkpoint(tmp_path):
    path = write_image(tmp_path / "a.png")
    expected = Predictor.load(checkpoint_of("faster")).predict(path)
    found = Predictor.load(bundle_of("faster", "torch")).predict(path)
    np.testing.assert_array_equal(found.boxes_xyxy, expected.boxes_xyxy)
    np.testing.assert_array_equal(found.scores, expected.scores)


def test_boxes_are_in_pixels_of_the_radiograph_as_read(tmp_path):
    """An image larger than preparation keeps gives the findings of the prepared one, scaled."""
    import cv2

    from cxr_mmdet.preparation.images import shrink

    large = make_image(700, 520, seed=3)
    cv2.imwrite(str(tmp_path / "large.png"), large)
    cv2.imwrite(str(tmp_path / "prepared.png"), shrink(large, 260))
    predictor = Predictor.load(checkpoint_of("retina"), short_edge=260)
    found, prepared = predictor.predict([tmp_path / "large.png", tmp_path / "prepared.png"])
    assert found.size_hw == (700, 520)
    assert prepared.size_hw == (350, 260)
    np.testing.assert_allclose(found.boxes_xyxy, 2 * prepared.boxes_xyxy, rtol=0, atol=1e-9)
    np.testing.assert_array_equal(found.scores, prepared.scores)


def test_jpeg2000_is_decoded_no_larger_than_the_model_needs_unless_exact(tmp_path):
    path = write_jpeg2000(tmp_path / "a.dcm", make_image(700, 521, seed=3))
    predictor = Predictor.load(checkpoint_of("retina"), short_edge=260)
    exact = Predictor(predictor.model, exact=True)
    assert Ensemble([predictor, Predictor.load(checkpoint_of("faster"), short_edge=300)]).min_short_edge == 300
    assert Ensemble([predictor, exact]).min_short_edge is None
    assert Predictor.load(checkpoint_of("retina"), short_edge=0).min_short_edge is None
    quick = predictor.predict(path)
    expected = predictor.predict(read_radiograph(path, min_short_edge=260))
    every = exact.predict(path)
    assert (
        quick.to_json() == expected.to_json() != every.to_json() == predictor.predict(read_radiograph(path)).to_json()
    )
    assert quick.size_hw == every.size_hw == (700, 521)
    best = every.best(5)
    near = np.abs(quick.boxes_xyxy[None] - best.boxes_xyxy[:, None]).max(axis=2) < 6
    assert near.any(axis=1).all(), "boxes are in pixels of the whole radiograph"


def test_every_kind_of_source_gives_the_same(tmp_path):
    path = write_image(tmp_path / "a.png")
    predictor = Predictor.load(checkpoint_of("retina"))
    expected = predictor.predict(path).to_json()
    for source in (str(path), path.read_bytes(), read_radiograph(path), read_radiograph(path).pixels):
        assert predictor.predict(source).to_json() == expected
    assert [found.to_json() for found in predictor.predict([path, path])] == [expected, expected]
    assert predictor.predict([]) == []


@pytest.mark.parametrize("array", [np.zeros((9, 8, 3), np.uint8), np.zeros((9, 8)), np.zeros((0, 8), np.uint8)])
def test_an_array_that_is_no_grey_image(array):
    with pytest.raises(UsageError, match=r"array of .* give grey levels as uint8 of the shape \(height, width\)"):
        as_radiograph(array)


@pytest.mark.parametrize("kind", ["retina_wide", "faster"])
def test_batches_change_nothing_but_rounding(tmp_path, kind):
    paths = [write_image(tmp_path / f"{i}.png", *size, seed=i) for i, size in enumerate([(150, 120)] * 3 + SIZES)]
    predictor = Predictor.load(checkpoint_of(kind))
    for one, of_batch in zip(predictor.predict(paths), predictor.predict(paths, batch_size=4), strict=True):
        assert_same(of_batch, one.boxes_xyxy, one.scores, one.labels)


def test_a_graph_of_one_shape_takes_others(tmp_path):
    """OpenVINO compiles the graph of square inputs for one of them; a batch is another shape."""
    paths = [write_image(tmp_path / f"{i}.png", seed=i) for i in range(3)]
    predictor = Predictor.load(bundle_of("retina", "openvino"))
    height, width = predictor.model.preprocessing.fixed_size_hw
    for one, of_batch in zip(predictor.predict(paths), predictor.predict(paths, batch_size=2), strict=True):
        assert_same(of_batch, one.boxes_xyxy, one.scores, one.labels)
    maps = predictor.model.backend.run
    image = np.random.default_rng(0).normal(size=(1, 3, height, width)).astype(np.float32)
    alone, doubled = maps("maps", {"image": image}), maps("maps", {"image": np.concatenate([image, image])})
    for level, levels in zip(alone[:-1], doubled[:-1], strict=True):  # the last holds all rows of the pyramid
        np.testing.assert_allclose(levels, np.concatenate([level, level]), rtol=1e-5, atol=1e-4)


@pytest.fixture
def torch_threads():
    """Take back what a test makes of torch's threads, which are the process's."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("form", ["onnx", "openvino", "torch"])
@pytest.mark.parametrize(("kind", "streams"), [("faster", 1), ("retina", 3)])
def test_threads_share_a_predictor(tmp_path, torch_threads, form, kind, streams):
    paths = [write_image(tmp_path / f"{i}.png", 60 + 20 * i, 80, seed=i) for i in range(4)]
    predictor = Predictor.load(bundle_of(kind, form), threads=streams, streams=streams)
    assert predictor.model.streams == streams
    expected = [found.to_json() for found in predictor.predict(paths)]
    got: dict[int, list] = {}

    def work(number: int) -> None:
        got[number] = [predictor.predict(paths[(number + turn) % 4]).to_json() for turn in range(4)]

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == {number: [expected[(number + turn) % 4] for turn in range(4)] for number in range(4)}


@pytest.mark.parametrize("streams", [1, 2])
def test_no_more_radiographs_are_in_the_network_than_streams(tmp_path, monkeypatch, streams):
    path = write_image(tmp_path / "a.png")
    predictor = Predictor.load(bundle_of("retina", "openvino"), threads=2, streams=streams)
    backend, inside, most = predictor.model.backend, [], []
    run = backend.run

    def counted(name, inputs):
        inside.append(name)
        most.append(len(inside))
        time.sleep(0.02)
        try:
            return run(name, inputs)
        finally:
            inside.pop()

    monkeypatch.setattr(backend, "run", counted)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(predictor.predict, [path] * 12))
    assert max(most) == streams


@pytest.mark.parametrize(
    ("asked", "threads", "streams", "each"), [(1, 8, 1, 8), (2, 8, 2, 4), (3, 2, 2, 1), (4, 1, 1, 1)]
)
def test_streams_share_the_threads(asked, threads, streams, each):
    shared = Streams(asked, threads)
    assert (shared.count, shared.all_threads, shared.threads_each) == (streams, threads, each)


def test_a_threshold_for_one_class(tmp_path):
    path = write_image(tmp_path / "a.png")
    predictor = Predictor.load(checkpoint_of("retina"))
    everything = predictor.predict(path)
    name = everything.class_names[int(everything.labels[0])]
    label = everything.class_names.index(name)
    limit = float(np.median(everything.scores[everything.labels == label]))
    found = predictor.predict(path, class_thresholds={name: limit})
    assert (found.scores[found.labels == label] >= limit).all()
    assert (found.labels == label).sum() < (everything.labels == label).sum()
    assert (found.labels != label).sum() >= (everything.labels != label).sum()


def test_nothing_found_is_a_legal_answer(tmp_path):
    found = Predictor.load(checkpoint_of("faster")).predict(write_image(tmp_path / "a.png"), score_threshold=1.0)
    assert len(found) == 0
    assert found.boxes_xyxy.shape == (0, 4)
    assert found.p_abnormal == 0


def test_one_pixel(tmp_path):
    found = Predictor.load(checkpoint_of("retina")).predict(write_image(tmp_path / "a.png", 1, 1))
    assert found.size_hw == (1, 1)
    assert ((found.boxes_xyxy >= 0) & (found.boxes_xyxy <= 1)).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"score_threshold": 1.5}, "score threshold is 1.5"),
        ({"nms_iou": -0.1}, "NMS IoU is -0.1"),
        ({"class_thresholds": {"ILD": 2}}, "score threshold of ILD is 2"),
        ({"class_thresholds": {"Fracture": 0.5}}, "no class 'Fracture'"),
    ],
)
def test_impossible_thresholds(tmp_path, options, message):
    with pytest.raises(UsageError, match=message):
        Predictor.load(checkpoint_of("retina")).predict(write_image(tmp_path / "a.png"), **options)


def test_an_unreadable_image_is_named(tmp_path):
    (tmp_path / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\nrest")
    with pytest.raises(DicomError, match=r"bad\.png"):
        Predictor.load(checkpoint_of("retina")).predict(tmp_path / "bad.png")


def test_no_such_model(tmp_path):
    with pytest.raises(CheckpointError, match="no such model"):
        Predictor.load(tmp_path / "nothing")


def test_a_path_makes_a_predictor(tmp_path):
    with pytest.raises(CheckpointError, match="no such model"):
        Predictor(tmp_path / "nothing")
    bundle = bundle_of("retina", "onnx")
    assert Predictor(str(bundle)).class_names == Predictor.load(bundle).class_names


def test_a_bundle_knows_the_size_of_its_images():
    with pytest.raises(UsageError, match=r"omit --short-edge \(short_edge in Python\)"):
        Predictor.load(bundle_of("faster", "onnx"), short_edge=512)


def test_class_thresholds_fall_back_to_the_general_one():
    limits = Thresholds(score=0.3, per_class={"b": 0.5}).of_classes(("a", "b"), 0.05)
    np.testing.assert_allclose(limits, [0.3, 0.5])


def test_a_finding_is_kept_at_its_own_score_and_the_models_own_threshold_stays_mmdets(tmp_path):
    """`evaluate thresholds` recommends a detection's own score, "and above": prediction dropped that detection."""
    predictor = Predictor.load(checkpoint_of("retina"))
    image = write_image(tmp_path / "a.png")
    for finding in predictor.predict(image, score_threshold=0.1).scores.tolist()[:3]:
        kept = predictor.predict(image, score_threshold=finding)
        assert kept.scores.min() == finding
        assert predictor.predict(image, score_threshold=math.nextafter(finding, 1)).scores.min(initial=1) > finding
        named = dict.fromkeys(predictor.class_names, finding)
        assert predictor.predict(image, class_thresholds=named).to_json() == kept.to_json()
    own = predictor.model.spec.score_threshold
    assert Thresholds().of_classes(("a",), own)[0] == np.nextafter(np.float32(own), np.float32(1))


def overflowing(kind, tensor, path):
    """Write a checkpoint whose weights are finite and whose products are not."""
    weights = dict(model_of(kind).state_dict())
    weights[tensor] = torch.full_like(weights[tensor], 3e38)
    return detectors.write_checkpoint(kind, path, state_dict=weights)


@pytest.mark.parametrize(
    ("kind", "tensor"),
    [
        ("retina", "bbox_head.retina_cls.weight"),
        ("retina", "bbox_head.retina_reg.weight"),
        ("faster", "rpn_head.rpn_cls.weight"),
        ("faster", "roi_head.bbox_head.fc_cls.weight"),
        ("faster", "roi_head.bbox_head.fc_reg.weight"),
    ],
)
def test_outputs_that_are_not_finite(tmp_path, kind, tensor):
    """Decoding leaves NaN out, so that the findings were those of a normal chest."""
    predictor = Predictor.load(overflowing(kind, tensor, tmp_path / "a.pth"))
    image = detectors.write_image(tmp_path / "a.png")
    with pytest.raises(NotFiniteError, match="not finite numbers"):
        predictor.predict(image)
    with pytest.raises(NotFiniteError):
        find_candidates(predictor, as_radiograph(image))


def test_a_model_whose_outputs_are_not_finite_is_not_exported(tmp_path):
    path = overflowing("retina", "bbox_head.retina_cls.weight", tmp_path / "a.pth")
    with pytest.raises(NotFiniteError):
        export_model(str(path), tmp_path / "out", ExportOptions(format=ExportFormat.ONNX))
    assert [file.name for file in tmp_path.iterdir()] == ["a.pth"]


@pytest.mark.parametrize("option", ["score_thr", "nms.iou_threshold"])
def test_a_threshold_of_the_config_that_is_not_a_number(tmp_path, option):
    """An infinite threshold finds nothing, in whatever radiograph."""
    meta = detectors.meta_of("retina")
    text = re.sub(rf"{option.rpartition('.')[2]}=[\d.]+", f"{option.rpartition('.')[2]}=1e999", meta["cfg"])
    path = detectors.write_checkpoint("retina", tmp_path / "a.pth", meta=meta | {"cfg": text})
    with pytest.raises(CheckpointError, match=r"its config is inconsistent \(\w+ is inf, expected a number"):
        Predictor.load(path)


def test_fewer_classes_than_the_network_scores(tmp_path):
    meta = detectors.meta_of("faster")
    path = detectors.write_checkpoint(
        "faster", tmp_path / "a.pth", meta=meta | {"dataset_meta": {"classes": ("ILD", "Cardiomegaly")}}
    )
    with pytest.raises(CheckpointError, match="names 2 classes, its network scores 5"):
        Predictor.load(path)
