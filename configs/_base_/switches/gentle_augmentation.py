# Augment by what keeps a chest a chest: contrast, small turns, scales and shifts.
#
# No flip, which would move the heart to the right; no erasing, since a hole looks like a finding. The steps come before
# the plane is repeated for three channels; they replace a recipe's own shift and exposure.
train_dataloader = dict(dataset=_base_.train_dataloader.dataset)
_dataset = train_dataloader["dataset"]
while "dataset" in _dataset:
    _dataset = _dataset.dataset
_own = [step for step in _dataset.pipeline if step.type not in ("RandomAffine", "RandomExposure")]
_channels = [step.type for step in _own].index("GreyToThreeChannels")
_own[_channels:_channels] = [
    dict(type="RandomClahe", probability=0.3, clip_limit=(1.0, 2.0)),
    dict(type="RandomPositioning", rotation=5, scale=0.1, shift=0.05),
    dict(type="RandomExposure", gamma=0.2, contrast=0.1, brightness=0.05),
]
_dataset.pipeline = _own
