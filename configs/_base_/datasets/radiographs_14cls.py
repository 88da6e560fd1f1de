_base_ = "radiographs.py"

# VinBigData's 14 findings. Images without findings stay in training.
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
data_root = "data/vinbigdata"

train_dataloader = dict(
    dataset=dict(data_root=data_root, ann_file="annotations/train_14.json", metainfo=dict(classes=classes))
)
val_dataloader = dict(
    dataset=dict(data_root=data_root, ann_file="annotations/val_14.json", metainfo=dict(classes=classes))
)
test_dataloader = val_dataloader
val_evaluator = dict(data_root=data_root, ann_file="annotations/val_14.json")
test_evaluator = val_evaluator
