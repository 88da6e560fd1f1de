"""PASCAL VOC 2010's evaluation written down line by line (VOCdevkit2010, VOCevaldet.m), slow and with loops.

VOC's boxes name the first and the last pixel, so a width is ``x_max - x_min + 1``. Ours are continuous: one that covers
columns 0…9 ends at 10. ``to_voc`` takes 1 off, after which both speak of the same pixels.
"""

import numpy as np


def to_voc(bbox_xywh):
    x, y, width, height = bbox_xywh
    return x, y, x + width - 1, y + height - 1


def literal_voc_ap(ground_truth, detections, category_id, iou_threshold):
    """Return the average precision of one class, NaN where nothing is to be found.

    VOC's "difficult" boxes stand for crowd regions here: they are no boxes to belong to, and a detection that is no hit
    counts for nothing if more than the threshold of its own area lies in one.
    """
    gt = {}
    npos = 0
    for annotation in ground_truth["annotations"]:
        if annotation["category_id"] != category_id:
            continue
        record = gt.setdefault(annotation["image_id"], {"BB": [], "diff": [], "det": []})
        record["BB"].append(to_voc(annotation["bbox"]))
        record["diff"].append(bool(annotation["iscrowd"]))
        record["det"].append(False)
        npos += not annotation["iscrowd"]
    own = [entry for entry in detections if entry["category_id"] == category_id]
    own = [own[i] for i in np.argsort([-entry["score"] for entry in own], kind="stable")]
    nd = len(own)
    tp, fp = np.zeros(nd), np.zeros(nd)
    for d in range(nd):
        bb = to_voc(own[d]["bbox"])
        record = gt.get(own[d]["image_id"], {"BB": [], "diff": [], "det": []})
        ovmax, jmax = -np.inf, -1
        in_region = False
        for j, bbgt in enumerate(record["BB"]):
            bi = (max(bb[0], bbgt[0]), max(bb[1], bbgt[1]), min(bb[2], bbgt[2]), min(bb[3], bbgt[3]))
            iw, ih = bi[2] - bi[0] + 1, bi[3] - bi[1] + 1
            if iw > 0 and ih > 0:
                ua = (
                    (bb[2] - bb[0] + 1) * (bb[3] - bb[1] + 1)
                    + (bbgt[2] - bbgt[0] + 1) * (bbgt[3] - bbgt[1] + 1)
                    - iw * ih
                )
                if record["diff"][j]:
                    share = iw * ih / ((bb[2] - bb[0] + 1) * (bb[3] - bb[1] + 1))
                    in_region = in_region or share > iou_threshold
                    continue
                ov = iw * ih / ua
                if ov > ovmax:
                    ovmax, jmax = ov, j
        if ovmax > iou_threshold and not record["det"][jmax]:
            tp[d] = 1
            record["det"][jmax] = True
        else:
            fp[d] = not in_region
    if npos == 0:
        return float("nan")
    fp, tp = np.cumsum(fp), np.cumsum(tp)
    rec = tp / npos
    prec = tp / np.maximum(fp + tp, 1e-300)
    mrec = np.concatenate([[0], rec, [1]])
    mpre = np.concatenate([[0], prec, [0]])
    for i in range(len(mpre) - 2, -1, -1):
        mpre[i] = max(mpre[i], mpre[i + 1])
    return float(sum((mrec[i] - mrec[i - 1]) * mpre[i] for i in range(1, len(mrec)) if mrec[i] != mrec[i - 1]))
