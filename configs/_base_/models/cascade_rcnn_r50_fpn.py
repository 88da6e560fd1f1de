_base_ = "mmdet::_base_/models/cascade-rcnn_r50_fpn.py"

# mmdet's pyramid, P2 to P6: three stages refine boxes up to IoU 0.7, for which small findings need the fine level. Its
# frozen norms, which suit one image per iteration, 512 RoIs per image, score threshold (0.05), NMS (IoU 0.5) and at
# most 100 detections per image. The weights come as a whole detector, by load_from. num_classes of the three stages is
# COCO's until the prepared folder's replaces it.
model = dict(
    data_preprocessor=dict(type="GreyDetDataPreprocessor"),
    backbone=dict(init_cfg=None),
)
