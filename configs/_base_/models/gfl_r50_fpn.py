_base_ = []  # before the import: mmengine then reads a plain text config
from cxr_mmdet.engine.mmdet_models import mmdet_model  # noqa: E402

# mmdet's pyramid, P3 to P7 (start_level=1 leaves res2 out); its frozen norms, which suit one image per iteration; its
# score threshold (0.05), NMS (IoU 0.6) and at most 100 detections per image. num_classes is COCO's until the prepared
# folder's replaces it.
model = mmdet_model("gfl/gfl_r50_fpn_1x_coco.py")
model.merge(
    dict(
        data_preprocessor=dict(type="GreyDetDataPreprocessor"),
        backbone=dict(init_cfg=None),  # the weights come as a whole detector, by load_from
    )
)
