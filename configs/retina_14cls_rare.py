_base_ = [
    "retina_14cls.py",
    "_base_/switches/repeat_factor.py",
    "_base_/switches/normal_share.py",
    "_base_/switches/gentle_augmentation.py",
]

train_dataloader = dict(
    sampler=dict(**_base_.repeat_factor, **_base_.normal_share),
    dataset=dict(pipeline=[*_base_.train_pipeline[:-2], *_base_.gentle_augmentation, *_base_.train_pipeline[-2:]]),
)
