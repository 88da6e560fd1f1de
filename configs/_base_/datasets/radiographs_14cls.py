# 14 findings, whole prepared pictures. Images without findings stay in training: they are what a normal chest looks
# like. No flip: a mirror would move the heart to the right.
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

train_pipeline = [
    dict(type="LoadGreyImage"),
    dict(type="LoadVotedAnnotations", with_bbox=True),
    # Short edge drawn from these, long edge at most 1333.
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
        type="CxrDataset",
        data_root=data_root,
        ann_file="annotations/train_14.json",
        metainfo=dict(classes=classes),
        pipeline=train_pipeline,
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
        ann_file="annotations/val_14.json",
        metainfo=dict(classes=classes),
        pipeline=test_pipeline,
        test_mode=True,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type="CxrMetric", data_root=data_root, ann_file="annotations/val_14.json")
test_evaluator = val_evaluator
