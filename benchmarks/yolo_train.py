"""Train a YOLO from random weights and write its detections; run by the Python of an environment with ultralytics.

It imports nothing of this project, and the project imports nothing of ultralytics, whose licence is the AGPL. Its only
argument is a JSON file:

model: YAML of an architecture, such as ``yolo11n.yaml``.
data: YAML of an ultralytics data set.
iterations: of training, rounded to whole epochs of at least one; ``stop_after`` breaks off earlier.
images: files to detect on.
out: folder that gets ``clock.json`` and ``boxes.json``: per image, a list of [x1, y1, x2, y2, score, class].
train: arguments of ultralytics' ``train``.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from pathlib import Path
from typing import Any


def main(spec: dict[str, Any]) -> None:
    """Train, then detect."""
    import torch
    from ultralytics import YOLO  # type: ignore[import-not-found]

    torch.set_num_threads(spec["threads"])
    out = Path(spec["out"])
    seconds: list[float] = []
    last = 0.0

    def start(trainer: Any) -> None:
        nonlocal last
        torch.set_num_threads(spec["threads"])
        last = time.process_time()

    def count(trainer: Any) -> None:
        nonlocal last
        now = time.process_time()
        seconds.append(now - last)
        last = now
        if len(seconds) == spec.get("stop_after"):
            raise _Stop

    model = YOLO(spec["model"])
    model.add_callback("on_train_start", start)
    model.add_callback("on_train_batch_end", count)
    epochs = max(1, round(spec["iterations"] / spec["batches_per_epoch"]))
    with contextlib.suppress(_Stop):
        model.train(
            data=spec["data"],
            epochs=epochs,
            project=str(out),
            name="train",
            exist_ok=True,
            device="cpu",
            **spec["train"],
        )
    (out / "clock.json").write_text(json.dumps({"iterations": seconds, "curve": []}), encoding="utf-8")
    if "stop_after" in spec:
        return
    best = YOLO(out / "train" / "weights" / "last.pt")
    boxes = []
    for image in spec["images"]:
        (found,) = best.predict(image, imgsz=spec["train"]["imgsz"], conf=0.001, verbose=False, device="cpu")
        boxes.append(found.boxes.data.tolist())
    (out / "boxes.json").write_text(json.dumps(boxes), encoding="utf-8")


class _Stop(Exception):  # noqa: N818
    """Break off a training that only measures its pace."""


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
