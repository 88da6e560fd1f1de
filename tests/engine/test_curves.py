import json

import cv2

from cxr_mmdet.engine.curves import draw_curves, read_scalars


def write(work_dir, run: str, *records: dict, tail: str = "") -> None:
    path = work_dir / run / "vis_data" / "scalars.json"
    path.parent.mkdir(parents=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records) + tail)


def test_a_resumed_run_continues_and_replaces_what_it_did_again(tmp_path):
    write(tmp_path, "20260101_000000", {"loss": 2.0, "lr": 0.1, "step": 10}, {"loss": 1.5, "step": 20}, tail='{"lo')
    write(tmp_path, "20260101_000100", {"loss": 1.4, "step": 20}, {"bbox/mAP_50": 0.5, "step": 30})
    write(tmp_path, "20250101_000000", {"loss": 9.0, "step": 5})  # an earlier run that this one did not resume
    assert read_scalars(tmp_path, ["20260101_000000", "20260101_000100"]) == {
        "loss": {10: 2.0, 20: 1.4},
        "lr": {10: 0.1},
        "step": {10: 10.0, 20: 20.0, 30: 30.0},
        "bbox/mAP_50": {30: 0.5},
    }


def test_draws_an_image(tmp_path):
    write(tmp_path, "run", {"loss": 2.0, "loss_cls": 1.0, "lr": 0.1, "step": 10}, {"bbox/mAP_50": 0.5, "step": 10})
    image = cv2.imread(str(draw_curves(tmp_path, ["run"])))
    assert image.shape[1] > 1000
    assert image.std() > 5


def test_draws_nothing_of_nothing(tmp_path):
    assert draw_curves(tmp_path, ["run"]) is None
    assert list(tmp_path.iterdir()) == []
