# Make every second training image a phantom, against learning few radiographs by heart.
#
# Phantoms of 288 px, for recipes of up to 256 px; larger ones by train_dataloader.dataset.size. The share of phantoms
# is train_dataloader.dataset.share.
train_dataloader = dict(
    dataset=dict(
        _delete_=True, type="WithPhantoms", share=0.5, images=800, size=288, dataset=_base_.train_dataloader.dataset
    )
)
