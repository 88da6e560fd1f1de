# VarifocalNet, ResNet-50 and FPN, from COCO weights.
_base_ = [
    "_base_/models/vfnet_r50_fpn.py",
    "_base_/datasets/radiographs.py",
    "_base_/schedules/cosine.py",
    "_base_/default_runtime.py",
]

# mmdet's rate of 0.01 is for 16 images per iteration: 0.01 / 16 for one. As in mmdet's recipe, biases learn twice as
# fast and do not decay.
optim_wrapper = dict(
    optimizer=dict(lr=0.000625),
    paramwise_cfg=dict(bias_lr_mult=2.0, bias_decay_mult=0.0),
)

# VFNet R50-FPN, 2x multi-scale on COCO.
load_from = "https://download.openmmlab.com/mmdetection/v2.0/vfnet/vfnet_r50_fpn_mstrain_2x_coco/vfnet_r50_fpn_mstrain_2x_coco_20201027-7cc75bd2.pth"
