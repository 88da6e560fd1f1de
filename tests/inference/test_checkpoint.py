"""A checkpoint is data: nothing in it runs, and what it lacks is said."""

from __future__ import annotations

import pytest
import torch
from detectors import Bomb, checkpoint_of, meta_of, write_checkpoint
from mmengine.config import Config

from cxr_mmdet.errors import CheckpointError
from cxr_mmdet.inference.checkpoint import load_detector, read_checkpoint
from cxr_mmdet.inference.safe_config import parse_config


def meta(**changes):
    return meta_of("retina") | changes


def test_what_training_wrote_is_loaded_whole():
    detector = load_detector(str(checkpoint_of("retina")))
    assert detector.class_names == ("Aortic enlargement", "Cardiomegaly", "ILD", "Infiltration", "Nodule/Mass")
    assert detector.name == "retina"
    assert detector.model_id == f"retina-{detector.sha256[:12]}"
    assert not detector.model.training
    expected = torch.load(checkpoint_of("retina"), weights_only=False)["state_dict"]
    own = detector.model.state_dict()
    assert own.keys() == expected.keys()
    assert all(torch.equal(own[name], expected[name]) for name in own)


def test_a_detector_trained_with_votes_predicts_without_them(tmp_path):
    cfg = meta_of("retina")["cfg"].replace(
        "type='SteadyRetinaHead'", "type='VoteWeightedRetinaHead', votes=dict(power=2)"
    )
    path = write_checkpoint("retina", tmp_path / "a.pth", meta=meta(cfg=cfg))
    voted, stock = load_detector(str(path)), load_detector(str(checkpoint_of("retina")))
    assert type(voted.model.bbox_head).__name__ == "VoteWeightedRetinaHead"
    maps = [each.model.bbox_head([torch.ones(1, 128, 2, 2)] * 5) for each in (voted, stock)]
    for ours, mmdets in zip(*maps, strict=True):
        assert all(map(torch.equal, ours, mmdets))


def test_a_run_stands_for_its_best_checkpoint(tmp_path):
    write_checkpoint("retina", tmp_path / "best_bbox_mAP_50_iter_2.pth")
    write_checkpoint("faster", tmp_path / "iter_4.pth")
    assert load_detector(str(tmp_path)).name == "retina"


@pytest.mark.parametrize("where", ["message_hub", "meta", "state_dict", "elsewhere"])
def test_a_pickle_bomb_does_not_go_off(tmp_path, where):
    mark = tmp_path / "went-off"
    path = write_checkpoint("retina", tmp_path / "a.pth", **{where: {"x": Bomb(mark)}})
    with pytest.raises(CheckpointError, match=r"would run code .*mkdir.*--trust-checkpoint \(trust_checkpoint=True"):
        load_detector(str(path))
    assert not mark.exists()


def test_trust_lets_it_run(tmp_path):
    mark = tmp_path / "went-off"
    path = write_checkpoint("retina", tmp_path / "a.pth", extra={"x": Bomb(mark)})
    assert load_detector(str(path), trust=True).name == "retina"
    assert mark.exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import os\nos.mkdir({mark!r})\n", "line 1 is a Import"),
        ("model = dict(type='RetinaNet', x=__import__('os').mkdir({mark!r}))\n", "holds a Call"),
        ("model = [x for x in ()]\n", "holds a ListComp"),
        ("work_dir = 'a'\n", "names no model"),
        ("model = dict(\n", "is not Python"),
        ("model = dict(\0)\n", "is not Python"),
        ("x = {{[]: 1}}\n", "cannot be read: unhashable"),
        ("x = " + "-" * 100_000 + "1\n", "it cannot be read: "),
    ],
)
def test_a_config_is_not_run(tmp_path, text, message):
    mark = tmp_path / "went-off"
    path = write_checkpoint("retina", tmp_path / "a.pth", meta=meta(cfg=text.format(mark=str(mark))))
    with pytest.raises(CheckpointError, match=message):
        load_detector(str(path))
    assert not mark.exists()


@pytest.mark.parametrize("kind", ["os.mkdir", "mmengine.load", "shutil.rmtree", "subprocess.Popen", "NoSuchNeck"])
def test_types_are_parts_of_mmdet_not_functions_of_python(tmp_path, kind):
    mark = tmp_path / "went-off"
    text = meta_of("retina")["cfg"] + f"\nmodel['neck'] = dict(type={kind!r}, name={str(mark)!r})\n"
    with pytest.raises(ValueError, match="plain assignment"):
        parse_config(text)
    text = meta_of("retina")["cfg"].replace("type='FPN'", f"type={kind!r}")
    assert kind in text
    path = write_checkpoint("retina", tmp_path / "a.pth", meta=meta(cfg=text))
    with pytest.raises(CheckpointError, match="is not part of mmdet"):
        load_detector(str(path))
    assert not mark.exists()


def test_foreign_imports_need_trust(tmp_path):
    text = meta_of("retina")["cfg"].replace("'cxr_mmdet.datasets'", "'antigravity'")
    path = write_checkpoint("retina", tmp_path / "a.pth", meta=meta(cfg=text))
    with pytest.raises(CheckpointError, match="imports antigravity"):
        load_detector(str(path))


def test_a_teacher_whose_config_mmdet_would_run(tmp_path):
    mark = tmp_path / "went-off"
    (tmp_path / "teacher.py").write_text(f"import os; os.mkdir({str(mark)!r})")
    text = meta_of("retina")["cfg"].replace(
        "type='RetinaNet'",
        f"type='KnowledgeDistillationSingleStageDetector', teacher_config={str(tmp_path / 'teacher.py')!r}",
    )
    path = write_checkpoint("retina", tmp_path / "a.pth", meta=meta(cfg=text))
    with pytest.raises(CheckpointError, match="names a config of a teacher"):
        load_detector(str(path))
    assert not mark.exists()


def test_the_parser_reads_what_mmengine_dumps():
    """As mmengine itself reads it, by running it."""
    text = meta_of("faster")["cfg"]
    assert parse_config(text) == Config.fromstring(text, ".py").to_dict()


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.9999])
def test_truncated(tmp_path, share):
    whole = checkpoint_of("retina").read_bytes()
    path = tmp_path / "cut.pth"
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(CheckpointError, match=r"cut\.pth: is (empty|cut short)") as caught:
        load_detector(str(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"weight": torch.zeros(2)}, "holds no model weights"),
        ([1, 2], "holds no model weights"),
        ({"state_dict": {}}, "holds no model weights"),
        ({"state_dict": {"a": 1}}, "holds no model weights"),
        ({"state_dict": {"a": torch.zeros(1)}}, "not the config"),
        ({"state_dict": {"a": torch.zeros(1)}, "meta": {"cfg": 3}}, "not the config"),
    ],
)
def test_other_files_of_torch(tmp_path, content, message):
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(tmp_path / "a.pth")


def test_a_name_that_a_terminal_would_obey_is_not_shown(tmp_path):
    path = write_checkpoint("retina", tmp_path / "a.pth", meta=meta(experiment_name="\x1b[2Jretina"))
    assert load_detector(str(path)).name == "a"


def test_weights_of_another_architecture(tmp_path):
    other = torch.load(checkpoint_of("faster"), weights_only=False)["state_dict"]
    path = write_checkpoint("retina", tmp_path / "a.pth", state_dict=other)
    with pytest.raises(CheckpointError, match=r"not those of the model its config describes \(\d+ missing"):
        load_detector(str(path))


@pytest.mark.parametrize("classes", [None, "Nodule", ["\x1b[2J"], [" "], [1]])
def test_labels_are_needed(tmp_path, classes):
    path = write_checkpoint("retina", tmp_path / "a.pth", meta=meta(dataset_meta={"classes": classes}))
    with pytest.raises(CheckpointError, match="which classes"):
        load_detector(str(path))
