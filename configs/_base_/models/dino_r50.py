_base_ = []  # before the import: mmengine then reads a plain text config
from cxr_mmdet.engine.mmdet_models import mmdet_model  # noqa: E402

# mmdet's pyramid: res3 to res5 and one more map, strides 8 to 64; its frozen norms in the backbone, group norm after
# it. DINO has neither NMS nor a score threshold: it returns its best boxes, here 100 as in the other recipes (mmdet:
# 300). Its 900 queries are chosen among the cells of all maps, which takes images of at least 210 px:
# 210² · (1/64 + 1/256 + 1/1024 + 1/4096) = 915. num_classes is COCO's until the prepared folder's replaces it.
model = mmdet_model("dino/dino-4scale_r50_8xb2-12e_coco.py")
model.merge(
    dict(
        data_preprocessor=dict(type="GreyDetDataPreprocessor"),
        backbone=dict(init_cfg=None),  # the weights come as a whole detector, by load_from
        test_cfg=dict(max_per_img=100),
    )
)
