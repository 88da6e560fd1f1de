# Whole prepared images. Classes and annotation files are those of the prepared folder (--data-root, --labels). Images
# without findings stay in training: they are what a normal chest looks like. No flip: it would move the heart to the
# right.
data_root = "data/prepared"

load_steps = [dict(type="LoadGreyImage"), dict(type="LoadVotedAnnotations", with_bbox=True)]
# Does what LoadGreyImage does, under the name that mmdet.apis looks for.
test_load_steps = [dict(type="cxr_mmdet.LoadImageFromFile")]
resize_steps = [
    # The short edge is drawn from these, the long edge is at most 1333.
    dict(
        type="RandomChoiceResize",
        scales=[(1333, short_edge) for short_edge in (640, 672, 704, 736, 768, 800)],
        keep_ratio=True,
    ),
]
test_resize_steps = [dict(type="Resize", scale=(1333, 800), keep_ratio=True)]
pack_steps = [dict(type="GreyToThreeChannels"), dict(type="PackRadiograph")]

train_pipeline = [*load_steps, *resize_steps, *pack_steps]
test_pipeline = [*test_load_steps, *test_resize_steps, *pack_steps]

train_dataloader = dict(
    batch_size=1,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type="SeededInfiniteSampler", shuffle=True),
    dataset=dict(type="CxrDataset", data_root=data_root, ann_file=None, pipeline=train_pipeline),
)
# One image at a time: its detections then depend neither on its neighbours nor on the number of processes.
val_dataloader = dict(
    batch_size=1,
    num_workers=2,
    persistent_workers=True,
    drop_last=False,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(type="CxrDataset", data_root=data_root, ann_file=None, pipeline=test_pipeline, test_mode=True),
)
test_dataloader = val_dataloader
val_evaluator = dict(type="CxrMetric", data_root=data_root, ann_file=None)
test_evaluator = val_evaluator
