_base_ = "radiographs_small.py"

# For organs that fill a large part of the picture: 176 px show their edges well enough, and cost half of 256. No side
# is drawn above 192 px, so that no batch is padded beyond it. Pictures are seen a hundred times, so they change more
# than in radiographs_small: turned by up to 5° and moved by an eighth, with other local contrast. Half of them are
# mirrored, right and left swapped in the labels: both lungs teach each other's outline.
train_pipeline = [
    dict(type="LoadGreyImage"),
    dict(type="LoadVotedAnnotations", with_bbox=True),
    dict(type="RandomMirror"),
    dict(type="PadToSquare"),
    dict(
        type="RandomChoiceResize",
        scales=[
            (width, height) for width in (144, 160, 168, 176, 184, 192) for height in (144, 160, 168, 176, 184, 192)
        ],
        keep_ratio=False,
    ),
    dict(type="RandomPositioning", rotation=5, scale=0.15, shift=0.12),
    dict(type="RandomClahe", probability=0.3, clip_limit=(1.0, 3.0)),
    dict(type="RandomExposure", gamma=0.35, contrast=0.2, brightness=0.1),
    dict(type="GreyToThreeChannels"),
    dict(type="PackRadiograph"),
]
test_pipeline = [
    dict(type="cxr_mmdet.LoadImageFromFile"),  # LoadGreyImage
    dict(type="PadToSquare"),
    dict(type="Resize", scale=(176, 176), keep_ratio=True),
    dict(type="GreyToThreeChannels"),
    dict(type="PackRadiograph"),
]

train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
