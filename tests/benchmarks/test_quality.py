import json

import numpy as np
import pytest
import torch
from mmdet.registry import DATASETS, MODELS
from mmengine.registry import init_default_scope
from training_runs import SMALL_RETINA
from typer.testing import CliRunner

from benchmarks import quality
from benchmarks.cli import app
from benchmarks.contestant import Contestant
from benchmarks.folds import Part
from benchmarks.partial_labels import plan_partial, unite
from benchmarks.quality import QualityRun, run_quality
from benchmarks.quality_report import gates_table, quality_tables, read_runs, score_gates, score_quality
from benchmarks.torchvision_retinanet import as_torchvision
from cxr_mmdet.engine.config import load_config
from cxr_mmdet.errors import DatasetError, UsageError
from cxr_mmdet.evaluation.headline import match_all, point_values
from cxr_mmdet.files import sole_use
from cxr_mmdet.structures.boxes import remove_padding
from cxr_mmdet.structures.coco import read_coco
from cxr_mmdet.structures.coverage import coverage_of
from cxr_mmdet.structures.labels import LABELS_5

SMALL = [
    "val_dataloader.dataset.pipeline.2.scale=(64,64)",
    "train_dataloader.batch_size=2",
    "train_dataloader.dataset.dataset.pipeline.4.scales=[(64,64),(96,96)]",
    *SMALL_RETINA,
]


@pytest.fixture
def short_trials(monkeypatch):
    """Measure the pace of a contestant over fewer iterations."""
    monkeypatch.setattr(quality, "_WARM_UP_ITERATIONS", 1)
    monkeypatch.setattr(quality, "_TIMED_ITERATIONS", 3)


def run_of(name, seed=0, **changes):
    values = {"iterations": 10, "cpu_s": 60.0, "curve": [[60.0, 0.5]], "ann_file": "annotations/val_5.json"}
    return QualityRun.from_json({"contestant": name, "seed": seed} | values | changes)


def perfect(ground_truth, score=0.9):
    return [
        {"image_id": box["image_id"], "category_id": box["category_id"], "bbox": box["bbox"], "score": score}
        for box in ground_truth["annotations"]
    ]


def test_a_contestant_is_a_recipe_with_switches_or_with_torchvisions_detector():
    assert Contestant.parse("retina_lungs") == Contestant("retina_lungs", "retina_lungs")
    assert Contestant.parse("retina_phantom+ema+torchvision") == Contestant(
        "retina_phantom+ema+torchvision", "retina_phantom", ("ema",), torchvision=True
    )


def test_a_start_changes_the_weights_and_not_the_length(prepared_folder, tmp_path):
    root = prepared_folder()
    started = Contestant.parse("retina_small+ema+from:runs/a/weights.safetensors")
    assert (started.recipe, started.switches, started.start) == ("retina_small", ("ema",), "runs/a/weights.safetensors")
    assert started.config(root, tmp_path).load_from == "runs/a/weights.safetensors"
    random = Contestant.parse("retina_small+ema")
    assert random.config(root, tmp_path).load_from is None
    assert started.pace_name == random.pace_name == "retina_small+ema"


class FakeTrainings:
    """Trainings that only write down what they were asked for, and end the process at one of them."""

    def __init__(self, monkeypatch):
        self.done, self.killed_at = [], None
        self.inputs = dict.fromkeys(("data", "start", "recipe"), "0" * 64)
        monkeypatch.setattr(quality._Training, "inputs", lambda _, contestant: dict(self.inputs))
        monkeypatch.setattr(quality._Training, "settings", lambda _, contestant: "0")
        monkeypatch.setattr(quality._Training, "seconds", lambda _, contestant, folder: 0.5)
        monkeypatch.setattr(quality._Training, "run", lambda training, *rest: self.run(training, *rest))

    def run(self, training, contestant, folder, iterations, seed):
        if len(self.done) == self.killed_at:
            raise KeyboardInterrupt
        part = training.part.folder
        self.done.append((contestant.name, part, seed))
        return run_of(contestant.name, seed, iterations=iterations, part=part)


def test_folds_are_trained_seed_by_seed_and_a_killed_benchmark_goes_on(monkeypatch, tmp_path):
    fake = FakeTrainings(monkeypatch)
    contestants = [Contestant.parse(name) for name in ("retina_small", "retina_small+from:a/b.pth")]
    parts = [Part(tmp_path, fold, 0.3) for fold in (1, 2)]
    options = {"minutes": 1, "seeds": [0, 1], "threads": 1, "folds": (2, 0)}
    fake.killed_at = 3
    with pytest.raises(KeyboardInterrupt):
        run_quality(contestants, parts, tmp_path / "out", **options)
    fake.killed_at = None
    runs = run_quality(contestants, parts, tmp_path / "out", **options)
    assert len(fake.done) == len(set(fake.done)) == len(runs) == 8
    assert [place for _, *place in fake.done[::2]] == [
        ["fold_1/share_0.3", 0],
        ["fold_2/share_0.3", 0],
        ["fold_1/share_0.3", 1],
        ["fold_2/share_0.3", 1],
    ]
    assert {run.iterations for run in runs} == {120}  # a minute at half a second each
    assert (tmp_path / "out/retina_small+from:a_b.pth/fold_2/share_0.3/seed_1/run.json").is_file()
    fake.inputs["start"] = "9" * 64
    with pytest.raises(
        UsageError, match=r"other starting weights \(000000000000\) than asked for now \(999999999999\)"
    ):
        run_quality(contestants, parts, tmp_path / "out", **options)
    assert len(fake.done) == 8
    fake.inputs["start"] = "0" * 64
    with pytest.raises(UsageError, match="name another folder by --out"):
        run_quality(contestants, parts, tmp_path / "out", **options | {"folds": (2, 1)})


@pytest.mark.parametrize("at", ["", "fold_1/share_0.3"])
def test_two_benchmarks_in_one_folder_leave_each_others_trainings(monkeypatch, tmp_path, at):
    """A second one removed the folder in which the first was training."""
    fake, out = FakeTrainings(monkeypatch), tmp_path / "out"
    options = {"minutes": 1, "seeds": [0], "threads": 1, "folds": (2, 0)}

    def run(fold):
        return run_quality([Contestant.parse("retina_small")], [Part(tmp_path, fold, 0.3)], out, **options)

    with sole_use(out / "retina_small" / at, "stop it"):
        with pytest.raises(UsageError, match=r"is in use by another process; wait for it, or name another folder by"):
            run(1)
        assert fake.done == []
    run(1)
    with sole_use(out / "retina_small" / "fold_1/share_0.3", "stop it"):
        assert len(run(2)) == 1  # another fold


def test_a_validation_without_a_box_is_refused_before_anything_is_trained(prepared_folder, tmp_path):
    """Its trainings were reported with an mAP of 0.000, and after all of them every score was undefined."""
    root = prepared_folder(train=2, val=2)
    path = root / "annotations" / "val_5.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"annotations": []}))
    message = r"val_5\.json: holds no box, so no training could be scored on it; divide the data anew by .* split"
    with pytest.raises(DatasetError, match=message):
        run_quality(
            [Contestant.parse("retina_small")],
            [Part(root)],
            tmp_path / "out",
            iterations=1,
            minutes=1,
            seeds=[0],
            threads=1,
        )


def test_torchvisions_detector_gives_its_own_boxes_in_pixels_before_padding(prepared_folder):
    init_default_scope("mmdet")
    config = as_torchvision(load_config("retina_phantom", data_root=prepared_folder(), load_from="none"))
    config.val_dataloader.dataset.pipeline[2].scale = (96, 96)
    model = MODELS.build(config.model).eval()
    torch.nn.init.constant_(model.detector.head.classification_head.cls_logits.bias, 1.0)
    sample = DATASETS.build(config.val_dataloader.dataset)[0]
    offset, size_hw = sample["data_samples"].pad_offset, sample["data_samples"].ori_shape[:2]
    batch = {"inputs": [sample["inputs"]], "data_samples": [sample["data_samples"]]}
    with torch.no_grad():
        (found,) = model.test_step(batch)
        (expected,) = model.detector(list(model.data_preprocessor(batch)["inputs"]))
    corners = remove_padding(expected["boxes"].numpy() * (max(size_hw) / 96), offset, size_hw)
    corners = corners[(corners[:, 2:] > corners[:, :2]).all(axis=1)]
    assert len(found.pred_instances) == len(corners) > 0
    np.testing.assert_allclose(found.pred_instances.bboxes, corners, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("training", [True, False])
def test_torchvisions_detector_sees_images_in_the_size_of_the_pipeline(prepared_folder, training):
    init_default_scope("mmdet")
    config = as_torchvision(load_config("retina_phantom", data_root=prepared_folder(), load_from="none"))
    transform = MODELS.build(config.model).train(training).detector.transform
    images = [torch.rand(3, 96, 64), torch.rand(3, 96, 64)]
    seen, _ = transform(images)
    assert seen.image_sizes == [(96, 64)] * 2
    assert all(torch.equal(got, given) for got, given in zip(seen.tensors, images, strict=True))


def test_two_runs_at_once_keep_each_others_pace(tmp_path, monkeypatch):
    """Both rewrote one pace.json, and one lost what the other had measured."""
    first, second = (Contestant.parse(name) for name in ("retina_small", "retina_lungs"))
    asked = []

    def seconds(self, contestant, folder):
        asked.append(contestant.name)
        if asked == ["retina_small"]:  # another run begins and ends while this one measures
            measure(second)
        return 0.5

    monkeypatch.setattr(quality._Training, "settings", lambda self, contestant: contestant.name)
    monkeypatch.setattr(quality._Training, "seconds", seconds)
    training = quality._Training(Part(tmp_path), tmp_path / "out", (), 1, None)

    def measure(contestant):
        return quality._measure_pace([contestant], training, report=lambda line: None)

    assert measure(first) == {"retina_small": 0.5}
    asked.clear()
    assert measure(second) | measure(first) == {"retina_lungs": 0.5, "retina_small": 0.5}
    assert asked == []


@pytest.mark.slow
def test_trainings_are_kept_and_not_repeated(prepared_folder, tmp_path, short_trials):
    root, out = prepared_folder(train=4, val=2), tmp_path / "quality"
    contestants = [Contestant.parse(name) for name in ("retina_phantom", "retina_phantom+torchvision")]
    options = {"minutes": 0.002, "seeds": [3], "threads": 1, "validations": 2, "cfg_options": SMALL}
    lines = []
    runs = run_quality(contestants, [Part(root)], out, report=lines.append, **options)
    assert [run.contestant for run in runs] == ["retina_phantom", "retina_phantom+torchvision"]
    assert all(run.iterations >= 2 and run.cpu_s > 0 and len(run.curve) == 2 for run in runs)
    assert (out / "retina_phantom+torchvision/seed_3/detections.json").is_file()
    assert sum("training" in line for line in lines) == 2
    lines.clear()
    assert run_quality(contestants, [Part(root)], out, report=lines.append, **options) == runs
    assert not any("training" in line for line in lines)
    with pytest.raises(UsageError, match="name another folder by --out"):
        run_quality(contestants, [Part(root)], out, **options | {"minutes": 0.03})

    paces = [json.loads((out / each.name / "pace.json").read_text())["seconds"] for each in contestants]
    assert [max(2, round(0.12 / seconds)) for seconds in paces] == [run.iterations for run in runs]
    counted = run_quality(contestants, [Part(root)], tmp_path / "counted", iterations=3, **options)
    assert [run.iterations for run in counted] == [3, 3]
    assert not list((tmp_path / "counted").rglob("pace.json"))


@pytest.mark.parametrize("other", ["configs/retina_lungs", "configs_retina_lungs.py"])
def test_contestants_with_one_name_or_folder_are_refused(tmp_path, other):
    twice = [Contestant.parse(name) for name in ("configs/retina_lungs", other)]
    with pytest.raises(UsageError, match="is named twice, or two would share a folder"):
        run_quality(twice, [Part(tmp_path)], tmp_path, minutes=1, seeds=[0], threads=1)


def test_a_start_may_have_a_plus_sign_in_its_name(tmp_path):
    file = tmp_path / "a+b.pth"
    file.touch()
    contestant = Contestant.parse(f"retina_small+ema+from:{file}")
    assert (contestant.switches, contestant.start) == (("ema",), str(file))
    assert contestant.pace_name == "retina_small+ema"
    first = Contestant.parse("retina_small+from:phantom+ema")
    assert (first.switches, first.start, first.pace_name) == (("ema",), "phantom", "retina_small+ema")


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("retina_small+from:a.pth+from:b.pth", r"starts from a\.pth and from b\.pth; name one"),
        ("yolo11n+from:phantom", "takes neither switches nor a start of ours"),
        ("yolo11n+ema", "takes neither switches nor a start of ours"),
    ],
)
def test_parts_that_would_be_left_out_are_refused(name, problem):
    with pytest.raises(UsageError, match=problem):
        Contestant.parse(name)


def test_scores_are_means_over_seeds_and_differences_are_paired(prepared_folder):
    ground_truth = read_coco(prepared_folder(val=12) / "annotations/val_5.json")
    right, half = perfect(ground_truth), perfect(ground_truth)[::2]
    good, poor = match_all(ground_truth, right), match_all(ground_truth, half)
    trained = {
        "mixed": [(run_of("mixed"), good), (run_of("mixed", 1), poor)],
        "good": [(run_of("good"), good), (run_of("good", 1), good)],
    }
    mixed, best = score_quality(trained, resamples=200)
    (point,) = score_quality({"poor": [(run_of("poor"), poor)]}, resamples=50)
    expected = (1 + point.values["mean_ap_50"].value) / 2
    assert mixed.values["mean_ap_50"].value == pytest.approx(expected)
    assert best.values["mean_ap_50"].low == best.values["mean_ap_50"].high == 1.0
    difference = best.differences["mean_ap_50"]
    assert difference.value == pytest.approx(1 - expected)
    # A draw may hold the good seed twice, where both are alike.
    assert difference.low == pytest.approx(0.0, abs=1e-9)
    assert difference.high > difference.value
    assert not mixed.differences


def test_folds_have_patients_of_their_own_and_count_alike(prepared_folder):
    ground_truth = read_coco(prepared_folder(val=12) / "annotations/val_5.json")
    ids = [image["id"] for image in ground_truth["images"]]
    trained = {"poor": [], "good": []}
    for fold, kept in (("fold_1", ids[:8]), ("fold_2", ids[8:])):
        truth = ground_truth | {
            "images": [image for image in ground_truth["images"] if image["id"] in kept],
            "annotations": [box for box in ground_truth["annotations"] if box["image_id"] in kept],
        }
        right = perfect(truth)
        for name, found in (("poor", right[::2] if fold == "fold_1" else right), ("good", right)):
            trained[name].append((run_of(name, part=fold), match_all(truth, found)))
    poor, good = score_quality(trained, resamples=200)
    alone = point_values(trained["poor"][0][1])["voc_mean_ap_40"]
    assert (poor.folds, poor.seeds) == (2, 1)
    assert poor.values["voc_mean_ap_40"].value == pytest.approx((alone + 1) / 2)
    difference = good.differences["voc_mean_ap_40"]
    assert difference.value == pytest.approx((1 - alone) / 2)
    # A draw may hold the fold twice in which both are alike, or twice the other.
    assert difference.low == pytest.approx(0.0, abs=1e-9)
    assert difference.high > difference.value


def test_equal_trainings_differ_by_exactly_nothing(prepared_folder):
    ground_truth = read_coco(prepared_folder(val=12) / "annotations/val_5.json")
    matched = match_all(ground_truth, perfect(ground_truth)[::2])
    pair = {name: [(run_of(name), matched), (run_of(name, 1), matched)] for name in ("a", "b")}
    difference = score_quality(pair, resamples=100)[1].differences["mean_ap"]
    assert (difference.value, difference.low, difference.high) == (0.0, 0.0, 0.0)


def test_a_gate_is_measured_beside_the_highest_scores_of_the_same_boxes(prepared_folder, tmp_path):
    """Every second image is normal, and all have a box of the same score: only the gate tells which are."""
    root = prepared_folder(val=12)
    path = root / "annotations/val_5.json"
    ground_truth = read_coco(path)
    kept = [image["id"] for image in ground_truth["images"]][::2]
    found = [
        {"image_id": image["id"], "category_id": 1, "bbox": [0.0, 0.0, 8.0, 8.0], "score": 0.5}
        for image in ground_truth["images"]
    ]
    ground_truth["annotations"] = [box for box in ground_truth["annotations"] if box["image_id"] in kept]
    path.write_text(json.dumps(ground_truth))
    runs = [run_of("plain"), run_of("gated")]
    for run in runs:
        run.folder(tmp_path).mkdir(parents=True)
        (run.folder(tmp_path) / "detections.json").write_text(json.dumps(found))
    names = {image["id"]: image["image_id"] for image in ground_truth["images"]}
    p_abnormal = {name: 0.9 if image_id in kept else 0.1 for image_id, name in names.items()}
    (runs[1].folder(tmp_path) / "detections.p_abnormal.json").write_text(json.dumps(p_abnormal))
    trained, ungated = read_runs(runs, root, tmp_path), read_runs(runs, root, tmp_path, gates=False)
    assert list(ungated) == ["gated"]
    (gate,) = score_gates(trained, ungated, resamples=50)
    assert gate.values["image_auc"].value == 1.0
    assert gate.differences["image_auc"].value == pytest.approx(0.5)
    assert gate.differences["voc_mean_ap_40_with_no_finding"].low > 0
    assert gate.differences["mean_ap_50"].value == 0.0
    cells = [next(iter(column.cells)) for column in gates_table([gate]).columns]
    assert cells[0] == "gated"
    assert cells[-1] == "+0.500 (+0.500…+0.500)"


def test_tables_say_what_is_undefined(prepared_folder):
    ground_truth = read_coco(prepared_folder(val=3) / "annotations/val_5.json")  # no normal image: no AUC
    matched = match_all(ground_truth, perfect(ground_truth))
    scores = score_quality({"a": [(run_of("a"), matched)]}, resamples=20)
    trainings, _, images = quality_tables(scores, differences=False)
    both = score_quality({"a": [(run_of("a"), matched)], "a+ema": [(run_of("a+ema"), matched)]}, resamples=20)
    assert [list(table.columns[0].cells) for table in quality_tables(both, differences=False)] == [["a", "+ema"]] * 3
    assert [list(table.columns[0].cells) for table in quality_tables(both, differences=True)] == [["+ema"]] * 2
    assert [next(iter(column.cells)) for column in trainings.columns] == ["a", "1", "1", "1.0", "10"]
    assert [next(iter(column.cells)) for column in images.columns][-1] == "undefined"


def test_the_command_prints_and_writes_the_scores(prepared_folder, tmp_path, short_trials):
    root, out = prepared_folder(train=4, val=4), tmp_path / "quality"
    arguments = ["quality", str(root), "retina_phantom", "--out", str(out), "--minutes", "0.01", "--seeds", "1"]
    rest = ["--threads", "1", "--resamples", "20", "--json", "--cfg-options", *SMALL]
    result = CliRunner().invoke(app, arguments + rest)
    assert result.exit_code == 0, result.output
    document = json.loads((out / "quality.json").read_text())
    assert document == json.loads(result.stdout)
    (entry,) = document["contestants"]
    assert document["gates"] == []
    assert entry["seeds"] == 1
    assert np.isfinite(entry["values"]["mean_ap"]["value"])
    assert (out / "quality.png").stat().st_size > 1000


def test_three_hospitals_divide_patients_and_classes(prepared_folder, tmp_path):
    data = prepared_folder(train=12)
    root, names = plan_partial("partial:retina_phantom+ema", data, tmp_path, labels="5")
    assert names[1:3] == [
        "retina_phantom@partial+unknown_as_absent+ema",
        "retina_phantom@hospital1,hospital2,hospital3+ema",
    ]
    files = {path.stem: read_coco(path) for path in (root / "annotations").glob("*.json")}
    full, partial = files["train_full"], files["train_partial"]
    parts = [files[f"train_hospital{number}"] for number in (1, 2, 3)]
    assert full == read_coco(data / "annotations" / "train_5.json")
    assert sorted(image["id"] for part in parts for image in part["images"]) == [i["id"] for i in full["images"]]
    assert sorted(len(part["categories"]) for part in parts) == [1, 2, 2]
    assert sum(len(part["annotations"]) for part in parts) == len(partial["annotations"]) < len(full["annotations"])
    coverage = coverage_of(partial)
    for row, image in enumerate(partial["images"]):
        (part,) = [part for part in parts if image["id"] in [each["id"] for each in part["images"]]]
        known = [category["name"] in [each["name"] for each in part["categories"]] for category in full["categories"]]
        assert coverage[row].tolist() == [2 * value for value in known]
    vals = [files[f"val_hospital{number}"] for number in (1, 2, 3)]
    united, found = unite(vals, [perfect(val) for val in vals])
    assert sorted(each["name"] for each in united["categories"]) == sorted(LABELS_5)
    values = [point_values(match_all(truth, perfect(truth))) for truth in (united, files["val_full"])]
    assert point_values(match_all(united, found)) | values[0] == values[0]
    assert values[0]["mean_ap"] == values[1]["mean_ap"]


def test_a_detector_per_hospital_is_scored_on_all_classes(prepared_folder, tmp_path):
    root, names = plan_partial("partial:retina_small", prepared_folder(train=30), tmp_path / "out", labels="5")
    small = [*SMALL[:2], "train_dataloader.dataset.pipeline.4.scales=[(64,64),(96,96)]"]
    (run,) = run_quality(
        [Contestant.parse(names[2])],
        [Part(root)],
        tmp_path / "out",
        minutes=1,
        iterations=3,
        seeds=[0],
        threads=1,
        validations=1,
        cfg_options=small,
    )
    assert run.iterations == 3
    assert len(read_coco(run.ground_truth(tmp_path / "out", root))["categories"]) == 5
    assert (run.folder(tmp_path / "out") / "detections.json").is_file()
