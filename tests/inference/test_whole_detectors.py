"""The modern recipes, decoded here or by mmdet: the findings of mmdet's own inference, and every option."""

from __future__ import annotations

import copy
import threading
from dataclasses import replace

import detectors
import numpy as np
import pytest
import torch
from mmdet_oracle import assert_same, mmdet_says
from mmengine.config import ConfigDict
from modern import DETECTORS, build, checkpoint_of, config_of, model_of

from cxr_mmdet.batch.run import RunOptions, predict_many
from cxr_mmdet.dicom.radiograph import read_radiograph
from cxr_mmdet.errors import CheckpointError, CxrError, NotFiniteError, UsageError
from cxr_mmdet.inference.backends.mmdet import MmdetBackend, describe_whole
from cxr_mmdet.inference.candidates import FLOOR, find_candidates
from cxr_mmdet.inference.decoding import refine_regions
from cxr_mmdet.inference.export.describe import OtherArchitectureError, describe_detector
from cxr_mmdet.inference.export.export import ExportOptions, export_model
from cxr_mmdet.inference.fusion import Ensemble
from cxr_mmdet.inference.predictor import Augmentation, AugmentationView, Predictor, Thresholds, make_views
from cxr_mmdet.structures import boxes
from cxr_mmdet.structures.enums import ExportFormat
from cxr_mmdet.structures.radiograph_files import find_radiographs

# The tiny form of rtmdet_m is that of rtmdet_s; GFL's maps are decoded here.
KINDS = [name for name in DETECTORS if name not in ("rtmdet_m", "gfl")]
WITH_NMS = [name for name in KINDS if name != "dino_r50"]
SIZES = [(150, 120), (97, 301), (33, 40)]


def above(found, threshold):
    """Return the oracle's findings above a threshold: where centerness lowers scores, mmdet looks before it does."""
    kept = found[1] > threshold
    return tuple(part[kept] for part in found)


@pytest.mark.parametrize("name", KINDS)
def test_predicts_as_mmdet_does(tmp_path, name):
    predictor = Predictor.load(checkpoint_of(name))
    model = model_of(name)
    counts = []
    for size in SIZES:
        path = detectors.write_image(tmp_path / "a.png", *size)
        expected = above(mmdet_says(model, config_of(name), path), predictor.model.spec.score_threshold)
        assert_same(predictor.predict(path), *expected)
        counts.append(len(expected[1]))
    assert max(counts) > 15, "or the test says nothing"


@pytest.mark.parametrize("class_agnostic", [True, False])
def test_a_stage_of_a_cascade_refines_boxes_as_mmdet_does(class_agnostic):
    head = copy.deepcopy(model_of("cascade_rcnn").roi_head.bbox_head[1])
    head.reg_class_agnostic = class_agnostic
    spec = Predictor.load(checkpoint_of("cascade_rcnn")).model.spec.regions
    generator = torch.Generator().manual_seed(1)
    boxes = (100 * torch.rand(40, 2, 2, generator=generator)).sort(dim=1).values.flatten(1)
    logits = torch.randn(40, 6, generator=generator)
    deltas = torch.randn(40, 4 if class_agnostic else 20, generator=generator)
    expected = head.regress_by_class(boxes, logits[:, :-1].argmax(1), deltas, {"img_shape": (90, 80)})
    spec = replace(spec, class_agnostic=class_agnostic)
    found = refine_regions(spec, 1, boxes.numpy(), logits.numpy(), deltas.numpy(), (90, 80))
    np.testing.assert_allclose(found, expected.numpy(), rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", WITH_NMS)
@pytest.mark.parametrize(("score", "nms_iou"), [(0.3, 0.2), (0.01, 0.8)])
def test_thresholds_are_those_of_mmdet(tmp_path, name, score, nms_iou):
    path = detectors.write_image(tmp_path / "a.png")
    model = build(name)
    test = model.roi_head.test_cfg if name == "cascade_rcnn" else model.bbox_head.test_cfg
    test.score_thr, test.nms.iou_threshold = score, nms_iou
    expected = above(mmdet_says(model, config_of(name), path), score)
    found = Predictor.load(checkpoint_of(name)).predict(path, score_threshold=score, nms_iou=nms_iou)
    assert len(found) > 3
    assert_same(found, *expected)


@pytest.mark.parametrize("name", KINDS)
def test_candidates_give_what_predicting_again_gives(tmp_path, name):
    predictor = Predictor.load(checkpoint_of(name))
    radiograph = read_radiograph(detectors.write_image(tmp_path / "a.png"))
    candidates = find_candidates(predictor, radiograph)
    overlaps = (0.1, 0.5, None) if name in WITH_NMS else (None,)
    counts = set()
    for score in (None, FLOOR, 0.3, 0.5, 0.75, 1.0):
        for nms_iou in overlaps:
            thresholds = Thresholds(score, nms_iou, {predictor.class_names[0]: 0.45})
            (expected,) = predictor.predict_radiographs([radiograph], thresholds)
            assert candidates.findings(thresholds).to_json() == expected.to_json()
            counts.add(len(expected))
    assert len(counts) > 2, "or the thresholds do nothing"


def test_a_threshold_for_one_class(tmp_path):
    path = detectors.write_image(tmp_path / "a.png")
    predictor = Predictor.load(checkpoint_of("atss"))
    everything = predictor.predict(path)
    label = int(everything.labels[0])
    limit = float(np.median(everything.scores[everything.labels == label]))
    found = predictor.predict(path, class_thresholds={everything.class_names[label]: limit})
    assert (found.scores[found.labels == label] >= limit).all()
    assert 0 < (found.labels == label).sum() < (everything.labels == label).sum()
    assert (found.labels != label).sum() >= (everything.labels != label).sum()


@pytest.mark.parametrize("name", ["atss", "cascade_rcnn", "dino_r50"])
def test_batches_change_nothing_but_rounding(tmp_path, name):
    paths = [detectors.write_image(tmp_path / f"{i}.png", 150, 120, seed=i) for i in range(3)]
    predictor = Predictor.load(checkpoint_of(name))
    for one, of_batch in zip(predictor.predict(paths), predictor.predict(paths, batch_size=3), strict=True):
        assert len(one)
        assert_same(of_batch, one.boxes_xyxy, one.scores, one.labels)


def test_a_mirrored_look_is_a_look_at_the_mirrored_image(tmp_path):
    import cv2

    image = detectors.make_image(120, 120)
    cv2.imwrite(str(tmp_path / "plain.png"), image)
    cv2.imwrite(str(tmp_path / "mirrored.png"), cv2.flip(image, 1))
    predictor = Predictor.load(checkpoint_of("atss"))
    flipped = predictor.predict(tmp_path / "plain.png", augmentation=Augmentation((AugmentationView(flip=True),)))
    mirrored = predictor.predict(tmp_path / "mirrored.png")
    assert len(mirrored) > 5
    np.testing.assert_allclose(flipped.boxes_xyxy, boxes.flip_horizontal(mirrored.boxes_xyxy, 120), atol=1e-4)
    np.testing.assert_array_equal(flipped.scores, mirrored.scores)


def test_architectures_that_mmdet_and_we_decode_in_one_ensemble(tmp_path):
    path = detectors.write_image(tmp_path / "a.png")
    members = [Predictor.load(checkpoint_of(name)) for name in ("atss", "dino_r50")]
    members.append(Predictor.load(detectors.checkpoint_of("retina")))
    ensemble = Ensemble(members)
    (found,) = ensemble.predict_radiographs(
        [read_radiograph(path)], Thresholds(), Augmentation(make_views((1.0, 1.5), flip=True))
    )
    assert len(found) > 10
    assert found.model_id.count("+") == 2
    with pytest.raises(UsageError, match="DINO does not use plain NMS"):
        ensemble.predict_radiographs([read_radiograph(path)], Thresholds(nms_iou=0.5))


def test_threads_share_a_predictor_each_with_its_own_threshold(tmp_path):
    path = detectors.write_image(tmp_path / "a.png")
    predictor = Predictor.load(checkpoint_of("cascade_rcnn"), threads=1)
    scores = (0.01, 0.3, 0.6, 0.9)
    expected = {score: predictor.predict(path, score_threshold=score).to_json() for score in scores}
    assert len({len(found["findings"]) for found in expected.values()}) > 2
    wrong: list[float] = []

    def work(score: float) -> None:
        for _ in range(3):
            if predictor.predict(path, score_threshold=score).to_json() != expected[score]:
                wrong.append(score)

    threads = [threading.Thread(target=work, args=(score,)) for score in scores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_an_overlap_for_a_detector_without_suppression_is_refused_before_anything_is_written(tmp_path):
    path = detectors.write_image(tmp_path / "in" / "a.png")
    predictor = Predictor.load(checkpoint_of("dino_r50"))
    with pytest.raises(UsageError, match=r"DINO does not use plain NMS; omit --nms-iou \(nms_iou in Python\)"):
        predictor.predict(path, nms_iou=0.5)
    with pytest.raises(UsageError, match="DINO"):
        predict_many(
            predictor,
            find_radiographs([str(tmp_path / "in")]),
            tmp_path / "out",
            RunOptions(thresholds=Thresholds(nms_iou=0.5)),
        )
    assert not (tmp_path / "out").exists()
    # What a page shows at first and sends back unchanged is the model's own.
    assert len(predictor.predict(path, nms_iou=predictor.model.spec.nms_iou)) == len(predictor.predict(path))


def soft_retina(folder):
    """Return checkpoint and config of a RetinaNet with soft suppression."""
    options = ["model.test_cfg.nms.type=soft_nms", "model.test_cfg.nms.method=gaussian"]
    name, shrunk = detectors.MODELS_BY_KIND["retina"]
    config = detectors.load_config(name, load_from="none", cfg_options=[*shrunk, *options])
    meta = detectors.training_meta(config, "soft")
    return detectors.write_checkpoint("retina", folder / "soft.pth", meta=meta), config


def test_suppression_of_another_kind_stays_the_models(tmp_path):
    """Soft suppression lowers scores instead of dropping boxes: mmdet does it, and no overlap can be chosen."""
    path = detectors.write_image(tmp_path / "a.png")
    checkpoint, config = soft_retina(tmp_path)
    predictor = Predictor.load(checkpoint)
    model = detectors.build("retina")
    model.bbox_head.test_cfg.nms = ConfigDict(type="soft_nms", iou_threshold=0.5, method="gaussian")
    expected = above(mmdet_says(model, config, path), predictor.model.spec.score_threshold)
    assert_same(predictor.predict(path), *expected)
    plain = Predictor.load(detectors.checkpoint_of("retina")).predict(path)
    assert sorted(expected[1].tolist()) != sorted(plain.scores.tolist()), "or nothing was softened"
    with pytest.raises(UsageError, match="RetinaNet does not use plain NMS"):
        predictor.predict(path, nms_iou=0.5)


@pytest.mark.parametrize("form", [form.value for form in ExportFormat])
def test_export_is_refused_by_one_sentence_that_says_what_to_do(tmp_path, form):
    checkpoint, _ = soft_retina(tmp_path)
    message = r"suppresses boxes by soft_nms, .*; it cannot be exported\. .*predict\.py"
    with pytest.raises(CheckpointError, match=message):
        export_model(str(checkpoint), tmp_path / "bundle", ExportOptions(format=ExportFormat(form)))
    assert not (tmp_path / "bundle").exists()


def test_a_transformer_that_is_another_is_left_to_mmdet():
    padded, other = build("dino_r50"), build("dino_r50")
    padded.data_preprocessor.pad_size_divisor = 32
    with pytest.raises(OtherArchitectureError, match=r"a\.pth: pads its inputs to multiples of 32 px; it cannot be"):
        describe_detector(padded, "a.pth")
    other.bbox_head.loss_cls.use_sigmoid = False
    with pytest.raises(OtherArchitectureError, match=r"a\.pth: its DINOHead is decoded differently; it cannot be"):
        describe_detector(other, "a.pth")


def test_a_detector_without_a_head_that_says_its_thresholds():
    model = build("atss")
    del model.bbox_head.test_cfg["max_per_img"]
    with pytest.raises(CheckpointError, match=r"a\.pth: is a ATSS without a bbox_head or roi_head"):
        describe_whole(model, "a.pth")


def test_the_model_given_stays_as_it_is():
    model = build("atss")
    before = model.bbox_head.test_cfg.to_dict()
    backend = MmdetBackend(model)
    backend.candidates(np.zeros((1, 3, 64, 64), dtype=np.float32), [(64, 64)], np.full(5, 0.2, dtype=np.float32))
    assert model.bbox_head.test_cfg.to_dict() == before


def test_an_input_with_fewer_cells_than_queries_is_one_sentence(tmp_path):
    """DINO chooses its queries among the cells of its maps."""
    predictor = Predictor.load(checkpoint_of("dino_r50"))
    small = Augmentation((AugmentationView(scale=0.25),))
    with pytest.raises(CxrError, match=r"DINO cannot predict 1 input\(s\) of 26 x 32 px \(.*--tta-scale.*make_views"):
        predictor.predict(detectors.write_image(tmp_path / "a.png"), augmentation=small)


def test_nothing_found_and_one_pixel(tmp_path):
    for name in ("atss", "cascade_rcnn", "dino_r50"):
        predictor = Predictor.load(checkpoint_of(name))
        found = predictor.predict(detectors.write_image(tmp_path / "a.png"), score_threshold=1.0)
        assert len(found) == 0
        found = predictor.predict(detectors.write_image(tmp_path / "b.png", 1, 1))
        assert ((found.boxes_xyxy >= 0) & (found.boxes_xyxy <= 1)).all()


@pytest.mark.parametrize(
    ("kind", "tensor"),
    [
        ("atss", "bbox_head.atss_cls.weight"),
        ("cascade_rcnn", "roi_head.bbox_head.1.fc_cls.weight"),
        ("dino_r50", "bbox_head.cls_branches.1.weight"),
    ],
)
def test_outputs_that_are_not_finite(tmp_path, kind, tensor):
    """mmdet leaves boxes with NaN as score out."""
    weights = dict(torch.load(checkpoint_of(kind), weights_only=False))
    state = dict(weights["state_dict"])
    state[tensor] = torch.full_like(state[tensor], 3e38)
    torch.save(weights | {"state_dict": state}, tmp_path / "a.pth")
    predictor = Predictor.load(tmp_path / "a.pth")
    with pytest.raises(NotFiniteError):
        predictor.predict(detectors.write_image(tmp_path / "a.png"))
