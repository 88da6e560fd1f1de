# Add a mirrored copy of each image that holds a rare finding.
#
# Rare in VinBigData: the classes with fewer than 1300 of its readers' 36096 boxes. A mirror moves the heart to the
# right, so images with a large heart or a wide aorta are mirrored only where they hold a rare finding as well.
_rare = ("Atelectasis", "Calcification", "Consolidation", "ILD", "Infiltration", "Pneumothorax")
_inner = _base_.train_dataloader.dataset
while "dataset" in _inner:
    _inner = _inner.dataset
if not any(step.type == "MinorityFlipRot90" for step in _inner.pipeline):
    _inner.pipeline.insert(2, dict(type="MinorityFlipRot90"))
train_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type="MinorityAugmentedDataset",
        minority_classes=[name for name in _inner.metainfo.classes if name in _rare],
        variants=("horizontal_flip",),
        dataset=_inner,
    )
)
