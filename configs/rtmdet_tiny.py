# The fast detector, for reading rooms without a GPU: RTMDet-tiny, CSPNeXt, 512 px, from COCO weights.
_base_ = [
    "_base_/models/rtmdet_tiny.py",
    "_base_/datasets/radiographs_small.py",
    "_base_/schedules/adamw_rtmdet.py",
    "_base_/default_runtime.py",
]

# Squares of 512 px, 0.64 of the cost of mmdet's 640 ((512 / 640)² = 0.64); sides are drawn up to an eighth off, in
# multiples of the last stride, 32.
train_pipeline = [
    *_base_.load_steps,
    dict(
        type="RandomChoiceResize",
        scales=[(width, height) for width in (448, 480, 512, 544, 576) for height in (448, 480, 512, 544, 576)],
        keep_ratio=False,
    ),
    *_base_.augment_steps,
    *_base_.pack_steps,
]
test_pipeline = [
    *_base_.test_load_steps,
    dict(type="Resize", scale=(512, 512), keep_ratio=True),
    *_base_.pack_steps,
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

# mmdet's rate of 0.004 is for 256 images, these are four: 0.004 · √(4 / 256) = 0.0005.
optim_wrapper = dict(optimizer=dict(lr=0.0005))
auto_scale_lr = dict(base_batch_size=4)
switches = ["channels_last"]

# RTMDet-tiny, 300 epochs on COCO.
load_from = "https://download.openmmlab.com/mmdetection/v3.0/rtmdet/rtmdet_tiny_8xb32-300e_coco/rtmdet_tiny_8xb32-300e_coco_20220902_112414-78e30dcc.pth"
