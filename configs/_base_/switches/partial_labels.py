# Leave classes that nobody looked for in an image out of the loss.
#
# On by itself where the training annotations say that some were not looked for; see docs/recipes.md.
train_dataloader = dict(dataset=_base_.train_dataloader.dataset)
_dataset = train_dataloader["dataset"]
while "dataset" in _dataset:
    _dataset = _dataset.dataset
_dataset.partial_labels = True
