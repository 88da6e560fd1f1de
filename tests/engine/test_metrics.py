import json

import pytest
import torch
from conftest import PreparedFolder
from mmengine.structures import InstanceData

from cxr_mmdet.datasets.transforms import RadiographSample
from cxr_mmdet.engine.metrics import CxrMetric
from cxr_mmdet.evaluation.evaluate import evaluate


def samples(metric: CxrMetric, *, score: float = 0.9, pad: tuple[int, int] = (0, 0)) -> list[dict]:
    """Return perfect predictions, as the evaluator hands them over, on images padded by ``pad``."""
    label_of = {category["id"]: label for label, category in enumerate(metric.ground_truth["categories"])}
    left, top = pad
    result = []
    for image in metric.ground_truth["images"]:
        own = [entry for entry in metric.ground_truth["annotations"] if entry["image_id"] == image["id"]]
        boxes = [[x + left, y + top, x + w + left, y + h + top] for x, y, w, h in (entry["bbox"] for entry in own)]
        size_hw = image["height"], image["width"]
        sample = RadiographSample(metainfo={"img_id": image["id"], "ori_shape": size_hw, "pad_offset": pad})
        sample.pred_instances = InstanceData(
            bboxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
            labels=torch.tensor([label_of[entry["category_id"]] for entry in own], dtype=torch.long),
            scores=torch.full((len(own),), score),
        )
        result.append(sample.to_dict())
    return result


@pytest.fixture
def metric(prepared_folder: PreparedFolder) -> CxrMetric:
    return CxrMetric(ann_file="annotations/val_5.json", data_root=str(prepared_folder(val=12)))


@pytest.mark.parametrize("pad", [(0, 0), (13, 4)])
def test_perfect_predictions_score_one_whatever_the_padding(metric, pad):
    metric.process(None, samples(metric, pad=pad))
    scores = metric.evaluate(size=12)
    assert scores["bbox/mAP"] == scores["bbox/mAP_50"] == pytest.approx(1.0)
    assert scores["bbox/AP_50/Nodule/Mass"] == pytest.approx(1.0)


def test_no_detection_is_zero(metric):
    empty = samples(metric)
    for sample in empty:
        sample["pred_instances"] = {name: value[:0] for name, value in sample["pred_instances"].items()}
    metric.process(None, empty)
    assert metric.evaluate(size=12)["bbox/mAP_50"] == 0.0


def test_undefined_scores_are_left_out(prepared_folder: PreparedFolder):
    metric = CxrMetric(ann_file="annotations/val_5.json", data_root=str(prepared_folder(val=1)))
    metric.process(None, samples(metric))
    assert {name for name in metric.evaluate(size=1) if "AP_50/" in name} == {"bbox/AP_50/Aortic enlargement"}


def test_the_competitions_and_frocs_numbers_can_choose_a_checkpoint(metric):
    metric.process(None, samples(metric))
    scores = metric.evaluate(size=12)
    names = ("mAP_40", "mAP_40_no_finding", "sensitivity_0.125", "sensitivity_8", "sensitivity_mean", "image_AUC")
    assert {name: scores[f"bbox/{name}"] for name in names} == dict.fromkeys(names, pytest.approx(1.0))
    assert scores["bbox/AP_40/Nodule/Mass"] == pytest.approx(1.0)
    assert metric.evaluation is None  # intervals are for the test run


def test_numbers_do_not_depend_on_the_order_in_which_processes_hand_over(metric):
    """All scores are equal, so a rank by order would show."""
    both = samples(metric, score=0.5) + samples(metric, score=0.5)
    for sample in both[12:]:
        sample["pred_instances"]["bboxes"] += 9  # boxes that stray by nine pixels
    metric.process(None, both)
    forwards = metric.compute_metrics(metric.results)
    assert metric.compute_metrics(metric.results[::-1]) == forwards
    assert forwards["mAP_50"] < 1


def test_the_centre_is_a_criterion_too(prepared_folder: PreparedFolder):
    metric = CxrMetric(ann_file="annotations/val_5.json", data_root=str(prepared_folder(val=12)), criterion="centre")
    small = samples(metric)
    for sample in small:
        boxes = sample["pred_instances"]["bboxes"]
        centres = (boxes[:, :2] + boxes[:, 2:]) / 2
        sample["pred_instances"]["bboxes"] = torch.cat([centres - 1, centres + 1], dim=1)
    metric.process(None, small)
    scores = metric.evaluate(size=12)
    assert scores["bbox/sensitivity_mean"] == 1.0
    assert scores["bbox/mAP_40"] == 0.0


def test_files_are_written(metric, tmp_path):
    metric.out_dir = str(tmp_path / "out")
    metric.process(None, samples(metric))
    metric.evaluate(size=12)
    detections = json.loads((tmp_path / "out" / "detections.json").read_text())
    assert len(detections) == len(metric.ground_truth["annotations"])
    written = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert written["mean_ap_50"] == pytest.approx(1.0)
    assert written == evaluate(metric.ground_truth, detections).to_metrics()


def gated_samples(metric: CxrMetric, *, right: bool) -> list[dict]:
    """Return detections of every box, and a gate that is always right, or always wrong."""
    truly = {entry["image_id"] for entry in metric.ground_truth["annotations"]}
    return [sample | {"p_abnormal": 0.9 if (sample["img_id"] in truly) is right else 0.2} for sample in samples(metric)]


def test_no_finding_and_the_auc_go_by_the_gate(metric):
    """Twelve images, three of them normal: by the wrong gate each of the nine abnormal ones ranks before them."""
    results = {}
    for right in (True, False):
        metric.results.clear()
        metric.process(None, gated_samples(metric, right=right))
        results[right] = metric.compute_metrics(metric.results)
    assert results[True]["mAP_40_no_finding"] == pytest.approx(1.0)
    assert (results[True]["image_AUC"], results[False]["image_AUC"]) == (1.0, 0.0)
    # Precision at the three normal images is 3/12, five classes are perfect.
    assert results[False]["mAP_40_no_finding"] == pytest.approx((5 * 1 + 3 / 12) / 6)
    assert results[True]["mAP_50"] == results[False]["mAP_50"]


def test_a_gates_probabilities_are_written_where_evaluation_finds_them(metric, tmp_path):
    from cxr_mmdet.evaluation.inputs import read_inputs

    metric.out_dir = str(tmp_path / "out")
    path = tmp_path / "out" / "detections.json"
    metric.process(None, gated_samples(metric, right=False))
    metric.evaluate(size=12)
    written = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert (written["p_abnormal"], written["image_auc"]) == ("given", 0.0)
    assert written == evaluate(metric.ground_truth, path).to_metrics()
    metric.process(None, samples(metric))  # the same folder, without a gate
    metric.evaluate(size=12)
    assert read_inputs(metric.ground_truth, path).p_abnormal is None
