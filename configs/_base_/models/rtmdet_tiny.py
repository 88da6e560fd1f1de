_base_ = "rtmdet_s.py"

# RTMDet-tiny's depth and width, as mmdet's rtmdet_tiny_8xb32-300e_coco.py has them.
model = dict(
    backbone=dict(deepen_factor=0.167, widen_factor=0.375),
    neck=dict(in_channels=[96, 192, 384], out_channels=96),
    bbox_head=dict(in_channels=96, feat_channels=96),
)
