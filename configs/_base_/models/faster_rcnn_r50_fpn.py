_base_ = "mmdet::_base_/models/faster-rcnn_r50_fpn.py"

# FPN on res3, res4, res5: P3, P4, P5 and a pooled P6 for proposals, so strides start at 8. Stock COCO checkpoints
# number the neck's levels from res2; PretrainedReportHook moves them down by one (fpn_level_shift).
model = dict(
    data_preprocessor=dict(type="GreyDetDataPreprocessor"),
    backbone=dict(out_indices=(1, 2, 3), init_cfg=None),
    neck=dict(in_channels=[512, 1024, 2048], num_outs=4),
    # Anchor sides 64, 128, 256, 512 px: 8 times the stride.
    rpn_head=dict(anchor_generator=dict(strides=[8, 16, 32, 64])),
    roi_head=dict(
        # RoIs below 224 px go to P3, below 448 px to P4, the rest to P5 (FPN's rule, canonical level P4 at 224 px):
        # level = floor(log2(side / 112)), clipped to 0..2.
        bbox_roi_extractor=dict(featmap_strides=[8, 16, 32], finest_scale=112),
    ),
    train_cfg=dict(rcnn=dict(sampler=dict(num=64))),  # 64 RoIs per image, the reference's number
)
