# The demo: 5 findings on synthetic radiographs, minutes on a CPU, no download.
_base_ = [
    "_base_/models/retinanet_r18_fpn_small.py",
    "_base_/datasets/radiographs_small.py",
    "_base_/schedules/adamw_short.py",
    "_base_/default_runtime.py",
]

# Images with a rare finding are in training three times: as they are, once more, and flipped horizontally. The flip
# moves the heart as well; so few images hold a rare finding that the copies are worth it.
classes = ("Aortic enlargement", "Cardiomegaly", "ILD", "Infiltration", "Nodule/Mass")
data_root = "work_dirs/demo/prepared"
# Anchors from 2 · 8 = 16 px, half the usual: nodules measure 10 to 40 px at this size.
model = dict(bbox_head=dict(num_classes=5, anchor_generator=dict(octave_base_scale=2)))
train_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type="MinorityAugmentedDataset",
        minority_classes=("ILD", "Infiltration", "Nodule/Mass"),
        variants=("original", "horizontal_flip"),
        dataset=dict(
            type="CxrDataset",
            data_root=data_root,
            ann_file="annotations/train_5.json",
            metainfo=dict(classes=classes),
            pipeline=_base_.train_pipeline,
        ),
    )
)
val_dataloader = dict(
    dataset=dict(data_root=data_root, ann_file="annotations/val_5.json", metainfo=dict(classes=classes))
)
test_dataloader = val_dataloader
val_evaluator = dict(data_root=data_root, ann_file="annotations/val_5.json")
test_evaluator = val_evaluator
train_cfg = dict(max_iters=600)
default_hooks = dict(logger=dict(interval=20), checkpoint=dict(interval=100))
