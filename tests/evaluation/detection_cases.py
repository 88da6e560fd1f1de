"""Ground truth and detections for the tests of this folder."""

import numpy as np
from hypothesis import strategies as st

from cxr_mmdet.evaluation.matching import match_detections
from cxr_mmdet.evaluation.voc import COMPETITION_IOU, voc_scores

NAMES = ("Cardiomegaly", "Nodule/Mass", "Pneumothorax")
CATEGORY_IDS = (7, 2, 3)
IMAGE_IDS = (4, 1, 30, 12)


def make_ground_truth(boxes, *, image_ids=IMAGE_IDS, category_ids=CATEGORY_IDS, groups=None):
    """Boxes are (image_id, category_id, xywh) or (image_id, category_id, xywh, iscrowd)."""
    images = [{"id": image_id, "width": 200, "height": 200} for image_id in image_ids]
    for image, group in zip(images, groups or (), strict=groups is not None):
        image["group"] = group
    return {
        "images": images,
        "categories": [{"id": category_id, "name": NAMES[i]} for i, category_id in enumerate(category_ids)],
        "annotations": [
            {
                "id": index,
                "image_id": image_id,
                "category_id": category_id,
                "bbox": list(box),
                "area": box[2] * box[3],
                "iscrowd": rest[0] if rest else 0,
            }
            for index, (image_id, category_id, box, *rest) in enumerate(boxes, 1)
        ],
    }


def make_detections(rows):
    """Rows are (image_id, category_id, xywh, score)."""
    return [
        {"image_id": image_id, "category_id": category_id, "bbox": list(box), "score": score}
        for image_id, category_id, box, score in rows
    ]


def evaluate_voc(ground_truth, detections, iou_threshold=COMPETITION_IOU):
    """The competition's metric over the ground truth's own classes."""
    return voc_scores(match_detections(ground_truth, detections, iou_threshold=iou_threshold), iou_threshold)


# A coarse grid makes equal boxes, equal scores and IoUs on a threshold common instead of rare.
_grid = st.integers(0, 5).map(lambda step: 8.0 * step)
_side = st.sampled_from([1.0, 8.0, 16.0, 20.0, 40.0, 96.0])
_rows = st.tuples(st.sampled_from(IMAGE_IDS), st.sampled_from(CATEGORY_IDS), st.tuples(_grid, _grid, _side, _side))
truths = st.lists(st.tuples(_rows, st.sampled_from([0, 0, 0, 1])).map(lambda row: (*row[0], row[1])), max_size=20).map(
    make_ground_truth
)
found = st.lists(
    st.tuples(_rows, st.sampled_from([0.0, 0.1, 0.5, 0.5000001, 0.9, 1.0])).map(lambda row: (*row[0], row[1])),
    max_size=40,
).map(make_detections)


def with_distinct_scores(detections):
    """Return the detections with scores that keep their order, equal ones that of the list, but are never equal."""
    order = sorted(range(len(detections)), key=lambda i: -detections[i]["score"])
    rank = {place: number for number, place in enumerate(order)}
    return [entry | {"score": 1 - rank[i] / 100} for i, entry in enumerate(detections)]


def detector_like(seed, *, images=40, boxes=60, groups=None):
    """Noisy copies of the truth among false alarms, with scores that tell them apart a little."""
    random = np.random.default_rng(seed)
    corner, size = random.uniform(0, 120, (boxes, 2)), random.uniform(10, 70, (boxes, 2))
    truth = np.hstack([corner, size])
    image_ids = random.integers(1, images + 1, boxes).tolist()
    classes = random.choice(CATEGORY_IDS, boxes).tolist()
    ground_truth = make_ground_truth(
        list(zip(image_ids, classes, truth.tolist(), strict=True)),
        image_ids=tuple(range(1, images + 1)),
        groups=groups,
    )
    noisy = truth + random.normal(0, 6, truth.shape)
    noisy[:, 2:] = np.abs(noisy[:, 2:]) + 1
    alarms = np.hstack([random.uniform(0, 120, (3 * boxes, 2)), random.uniform(10, 70, (3 * boxes, 2))])
    rows = list(zip(image_ids, classes, noisy.tolist(), random.beta(4, 2, boxes).tolist(), strict=True))
    rows += zip(
        random.integers(1, images + 1, 3 * boxes).tolist(),
        random.choice(CATEGORY_IDS, 3 * boxes).tolist(),
        alarms.tolist(),
        random.beta(2, 4, 3 * boxes).tolist(),
        strict=True,
    )
    return ground_truth, make_detections(rows)


def repeat_images(truth, detections, multiplicities):
    """Return files in which image i stands ``multiplicities[i]`` times, under new ids."""
    images, annotations, entries = [], [], []
    for image, count in zip(truth["images"], multiplicities, strict=True):
        for _ in range(count):
            new_id = len(images) + 1
            images.append(image | {"id": new_id})
            annotations += [a | {"image_id": new_id} for a in truth["annotations"] if a["image_id"] == image["id"]]
            entries += [d | {"image_id": new_id} for d in detections if d["image_id"] == image["id"]]
    return truth | {"images": images, "annotations": annotations}, entries
