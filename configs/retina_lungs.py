# Lungs and other large organs: RetinaNet on half a ResNet-18, 176 px, for a CPU.
_base_ = [
    "_base_/models/retinanet_r18_fpn_small.py",
    "_base_/datasets/radiographs_organs.py",
    "_base_/schedules/adamw_short.py",
    "_base_/default_runtime.py",
]

data_root = "data/lungs"
# Large organs are in every image and easy to find, so what counts is how tightly a box fits, and how often the network
# sees each image in the time there is. Levels start at stride 16: the finest level of the base costs half an iteration
# and its anchors are too small for a lung. Anchors start at 4.1 · 16 = 66 px. Only anchors that fit well (IoU 0.6)
# learn to score high, and the box loss weighs twice the base's. For small findings take retina_small.
model = dict(
    backbone=dict(out_indices=(2, 3)),
    neck=dict(in_channels=[128, 256], num_outs=3),
    bbox_head=dict(
        num_classes=2,  # two lungs; the prepared folder's number of classes replaces it
        anchor_generator=dict(strides=[16, 32, 64], octave_base_scale=4.1),
        loss_bbox=dict(loss_weight=4.0),
    ),
    train_cfg=dict(assigner=dict(pos_iou_thr=0.6, neg_iou_thr=0.5)),
)
switches = ["channels_last", "ema"]
train_dataloader = dict(dataset=dict(data_root=data_root))
val_dataloader = dict(dataset=dict(data_root=data_root))
test_dataloader = val_dataloader
val_evaluator = dict(data_root=data_root)
test_evaluator = val_evaluator
optim_wrapper = dict(optimizer=dict(lr=0.002, weight_decay=0.1))
train_cfg = dict(max_iters=7800, val_interval=1300)
# The best by mAP@[.5:.95]: every later checkpoint finds all lungs at IoU 0.5, so mAP@.5 cannot tell them apart.
default_hooks = dict(logger=dict(interval=50), checkpoint=dict(interval=650, save_best="bbox/mAP"))
