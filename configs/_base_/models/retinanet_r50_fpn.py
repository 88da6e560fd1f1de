_base_ = "mmdet::_base_/models/retinanet_r50_fpn.py"

# FPN on res3, res4, res5 only. mmdet's base computes res2 and skips it by start_level=1; dropping it keeps every
# parameter name, so COCO checkpoints of the stock model load. The weights come as a whole detector, by load_from. The
# loss is divided as in Detectron2's RetinaNet, by a running mean of the number of positive anchors: with mmdet's own
# division normal studies outweigh the others. Score threshold 0.05, NMS at IoU 0.5 and at most 100 detections per image
# are mmdet's.
model = dict(
    data_preprocessor=dict(type="GreyDetDataPreprocessor"),
    backbone=dict(out_indices=(1, 2, 3), init_cfg=None),
    neck=dict(in_channels=[512, 1024, 2048], start_level=0),
    bbox_head=dict(type="SteadyRetinaHead"),
)
