_base_ = "radiographs_small.py"

# For organs that fill a large part of the picture: 176 px show their edges well enough, and cost half of 256. No side
# is drawn above 192 px, so that no batch is padded beyond it.
train_pipeline = [
    dict(type="LoadGreyImage"),
    dict(type="LoadVotedAnnotations", with_bbox=True),
    dict(type="PadToSquare"),
    dict(
        type="RandomChoiceResize",
        scales=[(width, height) for width in (160, 168, 176, 184, 192) for height in (160, 168, 176, 184, 192)],
        keep_ratio=False,
    ),
    dict(
        type="RandomAffine",
        max_rotate_degree=0,
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
    dict(type="LoadGreyImage"),
    dict(type="PadToSquare"),
    dict(type="Resize", scale=(176, 176), keep_ratio=True),
    dict(type="GreyToThreeChannels"),
    dict(type="PackRadiograph"),
]

train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
