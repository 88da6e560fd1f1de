_base_ = "radiographs.py"

# The reference's 5 findings, images padded to squares, and virtual copies of images with a minority class: flipped
# horizontally, and rotated by 90° counter-clockwise. The copies flip and rotate the heart as well; that is the
# reference's recipe, and no other flip is added to it. Images without findings are kept if the prepared folder holds
# them.
classes = ("Aortic enlargement", "Cardiomegaly", "ILD", "Infiltration", "Nodule/Mass")
data_root = "data/vinbigdata"

# The images are square, so the long edge's limit of 1333 never applies.
train_pipeline = [
    *_base_.load_steps,
    dict(type="MinorityFlipRot90"),
    dict(type="PadToSquare"),
    *_base_.resize_steps,
    *_base_.pack_steps,
]
test_pipeline = [*_base_.test_load_steps, dict(type="PadToSquare"), *_base_.test_resize_steps, *_base_.pack_steps]

train_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type="MinorityAugmentedDataset",
        minority_classes=("ILD", "Infiltration", "Nodule/Mass"),
        dataset=dict(
            type="CxrDataset",
            data_root=data_root,
            ann_file="annotations/train_5.json",
            metainfo=dict(classes=classes),
            pipeline=train_pipeline,
        ),
    )
)
val_dataloader = dict(
    dataset=dict(
        data_root=data_root,
        ann_file="annotations/val_5.json",
        metainfo=dict(classes=classes),
        pipeline=test_pipeline,
    )
)
test_dataloader = val_dataloader
val_evaluator = dict(data_root=data_root, ann_file="annotations/val_5.json")
test_evaluator = val_evaluator
