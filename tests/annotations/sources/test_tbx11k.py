"""TBX11K: folders that say what was looked for."""

import json

from cxr_mmdet.annotations.sources import read_source
from cxr_mmdet.structures.coverage import Coverage

CATEGORIES = [
    {"id": number, "name": name}
    for number, name in enumerate(("ActiveTuberculosis", "ObsoletePulmonaryTuberculosis"), start=1)
]


def coco(*names, boxes=()):
    images = [{"id": n, "file_name": name, "width": 512, "height": 512} for n, name in enumerate(names, start=1)]
    annotations = [
        {"id": n, "image_id": image, "category_id": 1, "bbox": box, "iscrowd": 0}
        for n, (image, box) in enumerate(boxes, start=1)
    ]
    return json.dumps({"images": images, "annotations": annotations, "categories": CATEGORIES})


def test_folders_tell_healthy_from_sick_from_unread(write, boxes_of):
    folder = "TBX11K/annotations/json/"
    names = ("tb/tb0003.png", "health/h0001.png", "sick/s0001.png", "extra/da+db/p1.png", "extra/da+db/p2.png")
    boxes = [(1, [10, 20, 30, 40]), (4, [1, 2, 3, 4])]
    root = write(
        {
            folder + "TBX11K_trainval.json": coco(*names, boxes=boxes),
            folder + "TBX11K_trainval_only_tb.json": coco(*names[:1], boxes=boxes[:1]),
            folder + "TBX11K_val.json": coco(names[1]),
            "TBX11K/imgs/tb/tb0003.png": (16, 16),
        }
    )
    source = read_source(root / "TBX11K")
    assert (source.format, source.path.name) == ("tbx11k", "TBX11K_trainval.json")
    assert boxes_of(source) == [
        ("tb0003", "ActiveTuberculosis", (10, 20, 10 + 30, 20 + 40)),
        ("p1", "ActiveTuberculosis", (1, 2, 4, 6)),
        ("h0001", "No finding", None),
        ("s0001", "No finding", None),
    ]
    assert source.normal == {"h0001"}
    assert source.unread == ("p2",)
    assert (source.coverage == Coverage.EXHAUSTIVE).all(axis=None)
    assert source.split == {"tb0003": "train", "p1": "train", "h0001": "val", "s0001": "train"}
    assert set(source.rows["table_width"]) == {512}
