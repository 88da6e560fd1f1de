_base_ = "mmdet::_base_/models/cascade-rcnn_r50_fpn.py"

# Stock pyramid, P2 to P6: three stages refine boxes up to IoU 0.7, which needs small findings to be seen finely. Stock
# frozen norms, which suit one picture a step, 512 RoIs an image, threshold (0.05), suppression (IoU 0.5) and boxes a
# picture (100). The weights come as a whole detector, by load_from.
model = dict(
    data_preprocessor=dict(type="GreyDetDataPreprocessor"),
    backbone=dict(init_cfg=None),
)
