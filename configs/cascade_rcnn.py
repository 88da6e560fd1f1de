# Cascade R-CNN, ResNet-50 and FPN, from COCO weights.
_base_ = [
    "_base_/models/cascade_rcnn_r50_fpn.py",
    "_base_/datasets/radiographs.py",
    "_base_/schedules/cosine.py",
    "_base_/default_runtime.py",
]

# mmdet's rate of 0.02 is for 16 images per iteration: 0.02 / 16 for one.
optim_wrapper = dict(optimizer=dict(lr=0.00125))

# Cascade R-CNN R50-FPN, 20 epochs on COCO.
load_from = "https://download.openmmlab.com/mmdetection/v2.0/cascade_rcnn/cascade_rcnn_r50_fpn_20e_coco/cascade_rcnn_r50_fpn_20e_coco_bbox_mAP-0.41_20200504_175131-e9872a90.pth"
