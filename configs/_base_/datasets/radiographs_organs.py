_base_ = "radiographs_small.py"

# For organs that fill a large part of the image: 176 px show their edges well enough at half the cost of 256
# ((176 / 256)² = 0.47). No side is drawn above 192 px, so no batch is padded beyond that. Training sees each image
# about a hundred times, so augmentation is stronger than in radiographs_small: rotation by up to 5°, a shift of up to
# an eighth, other local contrast. Half of the images are flipped horizontally, with right and left exchanged in the
# labels: each lung teaches the outline of the other. Flips move the heart too, so this base is for paired organs.
load_steps = [
    dict(type="LoadGreyImage"),
    dict(type="LoadVotedAnnotations", with_bbox=True),
    dict(type="RandomMirror"),
    dict(type="PadToSquare"),
]
augment_steps = [
    dict(type="RandomPositioning", rotation=5, scale=0.15, shift=0.12),
    dict(type="RandomClahe", probability=0.3, clip_limit=(1.0, 3.0)),
    dict(type="RandomExposure", gamma=0.35, contrast=0.2, brightness=0.1),
]
train_pipeline = [
    *load_steps,
    dict(
        type="RandomChoiceResize",
        scales=[
            (width, height) for width in (144, 160, 168, 176, 184, 192) for height in (144, 160, 168, 176, 184, 192)
        ],
        keep_ratio=False,
    ),
    *augment_steps,
    *_base_.pack_steps,
]
test_pipeline = [
    *_base_.test_load_steps,
    dict(type="Resize", scale=(176, 176), keep_ratio=True),
    *_base_.pack_steps,
]

train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
