_base_ = [
    "_base_/models/retinanet_r18_fpn_small.py",
    "_base_/datasets/radiographs_small.py",
    "_base_/schedules/adamw_short.py",
    "_base_/default_runtime.py",
]

# Bring your own labels: copy this leaf, and change the classes (in the order of the prepared folder) and num_classes.
classes = ("Right lung", "Left lung")
# Large organs that are always there: easy to find, so what counts is how tightly a box fits. Anchors from 64 px, twice
# the usual, give lungs to strides of 8 and 16 px, which see their edges; only anchors that fit well (IoU 0.6) learn to
# score high, and boxes weigh twice the base's. For small findings leave the last two at the base's values.
model = dict(
    bbox_head=dict(num_classes=2, anchor_generator=dict(octave_base_scale=8), loss_bbox=dict(loss_weight=4.0)),
    train_cfg=dict(assigner=dict(pos_iou_thr=0.6, neg_iou_thr=0.5)),
)
train_dataloader = dict(dataset=dict(metainfo=dict(classes=classes)))
val_dataloader = dict(dataset=dict(metainfo=dict(classes=classes)))
test_dataloader = val_dataloader
train_cfg = dict(max_iters=1500, val_interval=250)
# The best by mAP@[.5:.95]: every later checkpoint finds all lungs at IoU 0.5, so mAP@.5 cannot tell them apart.
default_hooks = dict(logger=dict(interval=20), checkpoint=dict(interval=100, save_best="bbox/mAP"))
