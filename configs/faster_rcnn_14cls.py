# Faster R-CNN, ResNet-50, FPN on res3 to res5: the reference's recipe for 14 findings.
_base_ = [
    "_base_/models/faster_rcnn_r50_fpn.py",
    "_base_/datasets/radiographs_14cls.py",
    "_base_/schedules/cosine.py",
    "_base_/default_runtime.py",
]

model = dict(roi_head=dict(bbox_head=dict(num_classes=14)))

# Faster R-CNN R50-FPN, 3x multi-scale on COCO: the public checkpoint nearest to the reference's start.
load_from = "https://download.openmmlab.com/mmdetection/v2.0/faster_rcnn/faster_rcnn_r50_fpn_mstrain_3x_coco/faster_rcnn_r50_fpn_mstrain_3x_coco_20210524_110822-e10bd31c.pth"
