_base_ = "retina_phantom.py"

# All 14 findings on synthetic radiographs, without copies of rare ones: what switches are tried on. At 176 px in place
# of 256 an iteration costs half, so that a few minutes see more radiographs.
classes = (
    "Aortic enlargement",
    "Atelectasis",
    "Calcification",
    "Cardiomegaly",
    "Consolidation",
    "ILD",
    "Infiltration",
    "Lung Opacity",
    "Nodule/Mass",
    "Other lesion",
    "Pleural effusion",
    "Pleural thickening",
    "Pneumothorax",
    "Pulmonary fibrosis",
)
train_pipeline = [
    *_base_.train_pipeline[:4],
    dict(
        type="RandomChoiceResize",
        scales=[(width, height) for width in (160, 176, 192) for height in (160, 176, 192)],
        keep_ratio=False,
    ),
    *_base_.train_pipeline[5:],
]
test_pipeline = [
    *_base_.test_pipeline[:2],
    dict(type="Resize", scale=(176, 176), keep_ratio=True),
    *_base_.test_pipeline[3:],
]
model = dict(bbox_head=dict(num_classes=14))
train_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type="CxrDataset",
        data_root=_base_.data_root,
        ann_file="annotations/train_14.json",
        metainfo=dict(classes=classes),
        pipeline=train_pipeline,
    )
)
val_dataloader = dict(
    dataset=dict(ann_file="annotations/val_14.json", metainfo=dict(classes=classes), pipeline=test_pipeline)
)
test_dataloader = val_dataloader
val_evaluator = dict(ann_file="annotations/val_14.json")
test_evaluator = val_evaluator
optim_wrapper = dict(optimizer=dict(lr=0.002))
switches = ["channels_last"]
