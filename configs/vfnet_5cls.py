_base_ = [
    "_base_/models/vfnet_r50_fpn.py",
    "_base_/datasets/radiographs_5cls.py",
    "_base_/schedules/cosine.py",
    "_base_/default_runtime.py",
]

model = dict(bbox_head=dict(num_classes=5))
# Its 0.01 is for 16 pictures: 0.01 / 16 for the one that a step has here; biases learn twice as fast.
optim_wrapper = dict(
    optimizer=dict(lr=0.000625),
    paramwise_cfg=dict(bias_lr_mult=2.0, bias_decay_mult=0.0),
)
train_cfg = dict(max_iters=5000)

# VFNet R50-FPN, 2x multi-scale on COCO. Replace it by --load-from FILE, or by --load-from none for random weights.
load_from = "https://download.openmmlab.com/mmdetection/v2.0/vfnet/vfnet_r50_fpn_mstrain_2x_coco/vfnet_r50_fpn_mstrain_2x_coco_20201027-7cc75bd2.pth"
