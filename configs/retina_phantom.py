_base_ = [
    "_base_/models/retinanet_r18_fpn_small.py",
    "_base_/datasets/radiographs_small.py",
    "_base_/schedules/adamw_short.py",
    "_base_/default_runtime.py",
]

# The demo and the smoke test: 5 classes on synthetic radiographs, on a CPU, without a download.
classes = ("Aortic enlargement", "Cardiomegaly", "ILD", "Infiltration", "Nodule/Mass")
data_root = "work_dirs/demo/prepared"
model = dict(bbox_head=dict(num_classes=5))
train_dataloader = dict(
    dataset=dict(data_root=data_root, ann_file="annotations/train_5.json", metainfo=dict(classes=classes))
)
val_dataloader = dict(
    dataset=dict(data_root=data_root, ann_file="annotations/val_5.json", metainfo=dict(classes=classes))
)
test_dataloader = val_dataloader
val_evaluator = dict(data_root=data_root, ann_file="annotations/val_5.json")
test_evaluator = val_evaluator
default_hooks = dict(logger=dict(interval=20), checkpoint=dict(interval=100))
