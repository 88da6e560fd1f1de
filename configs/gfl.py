# GFL (Generalized Focal Loss), ResNet-50 and FPN, from COCO weights.
_base_ = [
    "_base_/models/gfl_r50_fpn.py",
    "_base_/datasets/radiographs.py",
    "_base_/schedules/cosine.py",
    "_base_/default_runtime.py",
]

# mmdet's rate of 0.01 is for 16 images per iteration: 0.01 / 16 for one.
optim_wrapper = dict(optimizer=dict(lr=0.000625))

# GFL R50-FPN, 2x multi-scale on COCO.
load_from = "https://download.openmmlab.com/mmdetection/v2.0/gfl/gfl_r50_fpn_mstrain_2x_coco/gfl_r50_fpn_mstrain_2x_coco_20200629_213802-37bb1edc.pth"
