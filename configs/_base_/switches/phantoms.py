# Make every second training image a phantom, against overfitting to few radiographs.
#
# Phantoms of 288 px, for recipes of up to 256 px; larger ones by train_dataloader.dataset.size. The share of phantoms
# is train_dataloader.dataset.share.
train_dataloader = dict(dataset=dict(_delete_=True, type="WithPhantoms", dataset=_base_.train_dataloader.dataset))
