_base_ = []  # before the import: mmengine then reads a plain text config
from cxr_mmdet.engine.mmdet_models import mmdet_model  # noqa: E402

# Stock pyramid: res3 to res5 and one map more, strides 8 to 64; stock frozen norms in the backbone, group norm after
# it. DINO neither suppresses boxes nor leaves out low scores: it gives its best boxes, 100 as in the other recipes
# (stock 300); a threshold is for those who use it. Its 900 queries are chosen among the cells of all maps, which takes
# pictures of 210 px: 210² · (1/64 + 1/256 + 1/1024 + 1/4096) = 915.
model = mmdet_model("dino/dino-4scale_r50_8xb2-12e_coco.py")
model.merge(
    dict(
        data_preprocessor=dict(type="GreyDetDataPreprocessor"),
        backbone=dict(init_cfg=None),  # the weights come as a whole detector, by load_from
        test_cfg=dict(max_per_img=100),
    )
)
