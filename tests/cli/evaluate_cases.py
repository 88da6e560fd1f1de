"""Small ground truths and detections for the tests of the command line, and a way to run it."""

import json

from typer.testing import CliRunner

from cxr_mmdet.cli.evaluate import app
from cxr_mmdet.structures.labels import LABELS_14

HIT, CLOSE = [10, 10, 40, 60], [10, 10, 40, 40]  # IoU 1600 / 2400: counts at 4 of COCO's 10 thresholds


def run_evaluate(*args):
    return CliRunner().invoke(app, [str(arg) for arg in args], env={"COLUMNS": "80"})


def make_ground_truth(boxes=((1, 1, HIT),)):
    return {
        "images": [{"id": 1, "file_name": "1.png"}, {"id": 2, "file_name": "2.png"}],
        "categories": [{"id": index, "name": name} for index, name in enumerate(LABELS_14, 1)],
        "annotations": [
            {"id": index, "image_id": image_id, "category_id": category_id, "bbox": bbox}
            for index, (image_id, category_id, bbox) in enumerate(boxes, 1)
        ],
    }


def make_detection(bbox=CLOSE, **changes):
    return {"image_id": 1, "category_id": 1, "bbox": bbox, "score": 0.9} | changes


def write(path, value):
    path.write_text(json.dumps(value))
    return path
