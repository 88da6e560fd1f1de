_base_ = [
    "_base_/models/retinanet_r18_fpn_small.py",
    "_base_/datasets/radiographs_small.py",
    "_base_/schedules/adamw_short.py",
    "_base_/default_runtime.py",
]

# Bring your own labels: copy this leaf, and change the classes (in the order of the prepared folder) and num_classes.
classes = ("Right lung", "Left lung")
model = dict(bbox_head=dict(num_classes=2))
train_dataloader = dict(dataset=dict(metainfo=dict(classes=classes)))
val_dataloader = dict(dataset=dict(metainfo=dict(classes=classes)))
test_dataloader = val_dataloader
train_cfg = dict(max_iters=1200, val_interval=300)
default_hooks = dict(logger=dict(interval=20), checkpoint=dict(interval=100))
