_base_ = "retinanet_r50_fpn.py"

# Small enough to train on a CPU in minutes, from random weights: ResNet-18 of half the width (res3 to res5 have 64, 128
# and 256 channels), half the head's width and depth, norms in neck and head too, and all of it trained. In a short
# training GIoU on decoded boxes fits them tighter than the base's L1 on deltas.
model = dict(
    backbone=dict(depth=18, base_channels=32, stem_channels=32, frozen_stages=-1, norm_eval=False),
    neck=dict(in_channels=[64, 128, 256], out_channels=128, norm_cfg=dict(type="BN")),
    bbox_head=dict(
        in_channels=128,
        feat_channels=128,
        stacked_convs=2,
        norm_cfg=dict(type="GN", num_groups=32),
        reg_decoded_bbox=True,
        loss_bbox=dict(_delete_=True, type="GIoULoss", loss_weight=2.0),
    ),
)
