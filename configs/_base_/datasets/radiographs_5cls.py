# 5 findings, pictures padded to squares, and virtual copies of what holds a minority class: mirrored, and turned by 90°
# counter-clockwise. The copies mirror and turn the heart as well; that is the reference's recipe, and why no other
# flip follows. Images without findings are kept when the prepared folder holds them.
classes = ("Aortic enlargement", "Cardiomegaly", "ILD", "Infiltration", "Nodule/Mass")
data_root = "data/vinbigdata"

train_pipeline = [
    dict(type="LoadGreyImage"),
    dict(type="LoadVotedAnnotations", with_bbox=True),
    dict(type="MinorityFlipRot90"),
    dict(type="PadToSquare"),
    # Squares, so the long edge of 1333 never binds.
    dict(
        type="RandomChoiceResize",
        scales=[(1333, short_edge) for short_edge in (640, 672, 704, 736, 768, 800)],
        keep_ratio=True,
    ),
    dict(type="GreyToThreeChannels"),
    dict(type="PackRadiograph"),
]
test_pipeline = [
    dict(type="cxr_mmdet.LoadImageFromFile"),  # LoadGreyImage
    dict(type="PadToSquare"),
    dict(type="Resize", scale=(1333, 800), keep_ratio=True),
    dict(type="GreyToThreeChannels"),
    dict(type="PackRadiograph"),
]

train_dataloader = dict(
    batch_size=1,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type="SeededInfiniteSampler", shuffle=True),
    dataset=dict(
        type="MinorityAugmentedDataset",
        minority_classes=("ILD", "Infiltration", "Nodule/Mass"),
        dataset=dict(
            type="CxrDataset",
            data_root=data_root,
            ann_file="annotations/train_5.json",
            metainfo=dict(classes=classes),
            pipeline=train_pipeline,
        ),
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=2,
    persistent_workers=True,
    drop_last=False,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="CxrDataset",
        data_root=data_root,
        ann_file="annotations/val_5.json",
        metainfo=dict(classes=classes),
        pipeline=test_pipeline,
        test_mode=True,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type="CxrMetric", data_root=data_root, ann_file="annotations/val_5.json")
test_evaluator = val_evaluator
