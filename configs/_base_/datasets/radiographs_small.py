# Pictures of one size that a CPU trains on, padded to squares; the leaf names the files and sizes. No flip: it would
# exchange left and right.
data_root = "data/lungs"

train_pipeline = [
    dict(type="LoadGreyImage"),
    dict(type="LoadVotedAnnotations", with_bbox=True),
    dict(type="MinorityFlipRot90"),
    dict(type="PadToSquare"),
    # Wider or narrower chests: both sides are drawn, up to an eighth from the size of testing.
    dict(
        type="RandomChoiceResize",
        scales=[(width, height) for width in (224, 240, 256, 272, 288) for height in (224, 240, 256, 272, 288)],
        keep_ratio=False,
    ),
    dict(
        type="RandomAffine",
        max_rotate_degree=0,  # a turned box no longer fits its finding
        max_shear_degree=0,
        max_translate_ratio=0.08,
        scaling_ratio_range=(0.9, 1.1),
        border_val=(0, 0, 0),
    ),
    dict(type="RandomExposure"),
    dict(type="GreyToThreeChannels"),
    dict(type="PackRadiograph"),
]
test_pipeline = [
    dict(type="cxr_mmdet.LoadImageFromFile"),  # LoadGreyImage
    dict(type="PadToSquare"),
    dict(type="Resize", scale=(256, 256), keep_ratio=True),
    dict(type="GreyToThreeChannels"),
    dict(type="PackRadiograph"),
]

train_dataloader = dict(
    batch_size=4,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type="SeededInfiniteSampler", shuffle=True),
    dataset=dict(
        type="CxrDataset",
        data_root=data_root,
        ann_file="annotations/train_auto.json",
        pipeline=train_pipeline,
    ),
)
# One picture at a time: what a picture gets then does not depend on its neighbours, nor on the number of processes.
val_dataloader = dict(
    batch_size=1,
    num_workers=1,
    persistent_workers=True,
    drop_last=False,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="CxrDataset",
        data_root=data_root,
        ann_file="annotations/val_auto.json",
        pipeline=test_pipeline,
        test_mode=True,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type="CxrMetric", data_root=data_root, ann_file="annotations/val_auto.json")
test_evaluator = val_evaluator
