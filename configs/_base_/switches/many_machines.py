# Vary phantoms until they span radiographs of many machines, positions and devices.
#
# For pretraining: position, size and turn of the chest, contrast, local contrast, scattered light, sharpness, cables
# and text differ between hospitals by more than the phantoms do. The steps replace the shift and exposure of a recipe,
# as those of gentle_augmentation do. No flip, which would move the heart to the right.
train_dataloader = dict(dataset=_base_.train_dataloader.dataset)
_dataset = train_dataloader["dataset"]
while "dataset" in _dataset:
    _dataset = _dataset.dataset
_replaced = ("RandomAffine", "RandomExposure", "RandomClahe", "RandomMirror", "RandomPositioning")
_own = [step for step in _dataset.pipeline if step.type not in _replaced]
_channels = [step.type for step in _own].index("GreyToThreeChannels")
_own[_channels:_channels] = [
    dict(type="RandomPositioning", rotation=8, scale=0.35, shift=0.12),
    dict(type="RandomAcquisition", devices=2.0),
    dict(type="RandomClahe", probability=0.3, clip_limit=(1.0, 3.0)),
    dict(type="RandomExposure", gamma=0.8, contrast=0.4, brightness=0.15),
]
_dataset.pipeline = _own
