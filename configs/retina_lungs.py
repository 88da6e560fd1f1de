_base_ = [
    "_base_/models/retinanet_r18_fpn_small.py",
    "_base_/datasets/radiographs_organs.py",
    "_base_/schedules/adamw_short.py",
    "_base_/default_runtime.py",
]

# Bring your own labels: copy this leaf, and change the classes (in the order of the prepared folder) and num_classes.
classes = ("Right lung", "Left lung")
# Large organs that are always there: easy to find, so what counts is how tightly a box fits, and how often the network
# sees each picture in the time there is. Levels start at stride 16: the finest one of the base costs half an iteration
# and its anchors are too small for any lung. Anchors from 66 px (4.1 strides); only those that fit well (IoU 0.6) learn
# to score high, and boxes weigh twice the base's. For small findings inherit radiographs_small and the base's levels.
model = dict(
    backbone=dict(out_indices=(2, 3)),
    neck=dict(in_channels=[128, 256], num_outs=3),
    bbox_head=dict(
        num_classes=2,
        anchor_generator=dict(strides=[16, 32, 64], octave_base_scale=4.1),
        loss_bbox=dict(loss_weight=4.0),
    ),
    train_cfg=dict(assigner=dict(pos_iou_thr=0.6, neg_iou_thr=0.5)),
)
switches = ["channels_last", "ema"]
train_dataloader = dict(dataset=dict(metainfo=dict(classes=classes)))
val_dataloader = dict(dataset=dict(metainfo=dict(classes=classes)))
test_dataloader = val_dataloader
optim_wrapper = dict(optimizer=dict(lr=0.002, weight_decay=0.1))
train_cfg = dict(max_iters=7800, val_interval=1300)
# The best by mAP@[.5:.95]: every later checkpoint finds all lungs at IoU 0.5, so mAP@.5 cannot tell them apart.
default_hooks = dict(logger=dict(interval=50), checkpoint=dict(interval=650, save_best="bbox/mAP"))
