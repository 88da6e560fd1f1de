_base_ = "retina_phantom.py"

# All 14 findings on synthetic radiographs, without copies of rare ones: what switches are tried on.
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
model = dict(bbox_head=dict(num_classes=14))
train_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type="CxrDataset",
        data_root=_base_.data_root,
        ann_file="annotations/train_14.json",
        metainfo=dict(classes=classes),
        pipeline=_base_.train_pipeline,
    )
)
val_dataloader = dict(dataset=dict(ann_file="annotations/val_14.json", metainfo=dict(classes=classes)))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file="annotations/val_14.json")
test_evaluator = val_evaluator
