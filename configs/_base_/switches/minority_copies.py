# Add a mirrored copy of each image that holds a rare finding.
#
# Rare in VinBigData: the classes with fewer than 1300 of its readers' 36096 boxes. A flip moves the heart to the right,
# so images with a large heart or a wide aorta are flipped only where they hold a rare finding as well.
_rare = ("Atelectasis", "Calcification", "Consolidation", "ILD", "Infiltration", "Pneumothorax")
_place = _base_.train_dataloader.dataset  # of the copies: whatever wraps them stays, as phantoms
while "dataset" in _place and _place.type != "MinorityAugmentedDataset":
    _place = _place.dataset
_inner = _place
while "dataset" in _inner:
    _inner = _inner.dataset
if not any(step.type == "MinorityFlipRot90" for step in _inner.pipeline):
    _annotations = [step.type for step in _inner.pipeline].index("LoadVotedAnnotations")
    _inner.pipeline.insert(_annotations + 1, dict(type="MinorityFlipRot90"))
_inner = dict(_inner)
_place.clear()
_place.update(
    type="MinorityAugmentedDataset",
    # Where the data hold none of them, the dataset refuses all.
    minority_classes=[name for name in _inner.get("metainfo", {}).get("classes", ()) if name in _rare] or _rare,
    variants=("horizontal_flip",),
    dataset=_inner,
)
train_dataloader = dict(dataset=dict(_base_.train_dataloader.dataset, _delete_=True))
