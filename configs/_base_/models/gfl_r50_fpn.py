_base_ = []  # before the import: mmengine then reads a plain text config
from cxr_mmdet.engine.mmdet_models import mmdet_model  # noqa: E402

# Stock pyramid, P3 to P7 (start_level=1 leaves res2 out), stock frozen norms, which suit one picture a step, stock
# threshold (0.05), suppression (IoU 0.6) and boxes per image (100).
model = mmdet_model("gfl/gfl_r50_fpn_1x_coco.py")
model.merge(
    dict(
        data_preprocessor=dict(type="GreyDetDataPreprocessor"),
        backbone=dict(init_cfg=None),  # the weights come as a whole detector, by load_from
    )
)
