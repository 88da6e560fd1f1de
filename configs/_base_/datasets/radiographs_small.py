# Images of one size that a CPU trains on, padded to squares. Classes and annotation files are those of the prepared
# folder (--data-root, --labels). Images without findings stay in training. No flip: it would exchange left and right.
data_root = "data/prepared"

load_steps = [
    dict(type="LoadGreyImage"),
    dict(type="LoadVotedAnnotations", with_bbox=True),
    dict(type="MinorityFlipRot90"),  # makes the virtual copies, for recipes and switches that ask for them
    dict(type="PadToSquare"),
]
test_load_steps = [
    dict(type="cxr_mmdet.LoadImageFromFile"),
    dict(type="PadToSquare"),
]  # as LoadGreyImage; mmdet.apis asks for the name
augment_steps = [
    dict(
        type="RandomAffine",
        max_rotate_degree=0,  # a rotated box no longer fits its finding
        max_shear_degree=0,
        max_translate_ratio=0.08,
        scaling_ratio_range=(0.9, 1.1),
        border_val=(0, 0, 0),
    ),
    dict(type="RandomExposure"),
]
pack_steps = [dict(type="GreyToThreeChannels"), dict(type="PackRadiograph")]

train_pipeline = [
    *load_steps,
    # Both sides are drawn, up to an eighth (32 of 256 px) off the size used for testing: chests become wider or
    # narrower.
    dict(
        type="RandomChoiceResize",
        scales=[(width, height) for width in (224, 240, 256, 272, 288) for height in (224, 240, 256, 272, 288)],
        keep_ratio=False,
    ),
    *augment_steps,
    *pack_steps,
]
test_pipeline = [
    *test_load_steps,
    dict(type="Resize", scale=(256, 256), keep_ratio=True),
    *pack_steps,
]

train_dataloader = dict(
    batch_size=4,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type="SeededInfiniteSampler", shuffle=True),
    dataset=dict(type="CxrDataset", data_root=data_root, ann_file=None, pipeline=train_pipeline),
)
# One image at a time: its detections then depend neither on its neighbours nor on the number of processes.
val_dataloader = dict(
    batch_size=1,
    num_workers=1,
    persistent_workers=True,
    drop_last=False,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(type="CxrDataset", data_root=data_root, ann_file=None, pipeline=test_pipeline, test_mode=True),
)
test_dataloader = val_dataloader
val_evaluator = dict(type="CxrMetric", data_root=data_root, ann_file=None)
test_evaluator = val_evaluator
