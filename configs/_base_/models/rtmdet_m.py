_base_ = "rtmdet_s.py"

# RTMDet-m's depth and width, as mmdet's rtmdet_m_8xb32-300e_coco.py has them.
model = dict(
    backbone=dict(deepen_factor=0.67, widen_factor=0.75),
    neck=dict(in_channels=[192, 384, 768], out_channels=192, num_csp_blocks=2),
    bbox_head=dict(in_channels=192, feat_channels=192, exp_on_reg=True),
)
