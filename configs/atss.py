# ATSS, ResNet-50 and FPN, from COCO weights.
_base_ = [
    "_base_/models/atss_r50_fpn.py",
    "_base_/datasets/radiographs.py",
    "_base_/schedules/cosine.py",
    "_base_/default_runtime.py",
]

# mmdet's rate of 0.01 is for 16 images per iteration: 0.01 / 16 for one.
optim_wrapper = dict(optimizer=dict(lr=0.000625))

# ATSS R50-FPN, 1x on COCO.
load_from = "https://download.openmmlab.com/mmdetection/v2.0/atss/atss_r50_fpn_1x_coco/atss_r50_fpn_1x_coco_20200209-985f7bd0.pth"
