_base_ = "faster_rcnn_r50_fpn.py"

# Small enough to train on a CPU from random weights, on images of 256 px: ResNet-18 of half the width (res3 to res5
# have 64, 128 and 256 channels), half the channels in neck and RPN, a quarter in the RoI head, a norm in the neck, and
# all of it trained.
model = dict(
    backbone=dict(depth=18, base_channels=32, stem_channels=32, frozen_stages=-1, norm_eval=False),
    neck=dict(in_channels=[64, 128, 256], out_channels=128, norm_cfg=dict(type="BN")),
    # Anchor sides 16, 32, 64, 128 px: twice the stride. Nodules measure 10 to 40 px at this size, hearts 130.
    rpn_head=dict(in_channels=128, feat_channels=128, anchor_generator=dict(scales=[2])),
    roi_head=dict(
        # FPN's rule for 800 px, scaled to 256: 112 · 256 / 800 = 36, rounded to 32. RoIs below 64 px go to P3, below
        # 128 px to P4, the rest to P5.
        bbox_roi_extractor=dict(out_channels=128, finest_scale=32),
        bbox_head=dict(in_channels=128, fc_out_channels=256),
    ),
    # A quarter of the stock 1000 proposals per image: each costs time in the RoI head, and a chest holds few findings.
    test_cfg=dict(rpn=dict(max_per_img=250)),
)
