# What keeps a chest a chest: local contrast, a small turn, scale and shift, exposure. No mirror: it would move the
# heart to the right. No erasing: a hole is a finding.
# In a leaf, before the last two steps, in which one plane becomes three channels and a sample:
#     pipeline=[*_base_.train_pipeline[:-2], *_base_.gentle_augmentation, *_base_.train_pipeline[-2:]]
# and [:-4] on radiographs_small, whose own RandomAffine and RandomExposure these then replace.
gentle_augmentation = [
    dict(type="RandomClahe", probability=0.3, clip_limit=(1.0, 2.0)),
    dict(type="RandomPositioning", rotation=5, scale=0.1, shift=0.05),
    dict(type="RandomExposure", gamma=0.2, contrast=0.1, brightness=0.05),
]
