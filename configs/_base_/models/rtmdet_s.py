_base_ = []  # before the import: mmengine then reads a plain text config
from cxr_mmdet.engine.mmdet_models import mmdet_model  # noqa: E402

# mmdet's pyramid, strides 8, 16, 32. Nothing of its recipe's augmentation is taken over: mosaic and mix-up paste chests
# together, flips mirror the heart. Its batch augmentation is off for the same reason. num_classes is COCO's until the
# prepared folder's replaces it.
model = mmdet_model("rtmdet/rtmdet_s_8xb32-300e_coco.py")
model.merge(
    dict(
        # The neck joins maps of neighbouring levels, so sides must be multiples of the last stride.
        data_preprocessor=dict(type="GreyDetDataPreprocessor", pad_size_divisor=32, batch_augments=None),
        # SyncBN is for many GPUs. The backbone keeps COCO's statistics, which two images per iteration cannot improve;
        # neck and head have no norm_eval and go on learning theirs.
        backbone=dict(norm_cfg=dict(type="BN"), norm_eval=True, init_cfg=None),
        neck=dict(norm_cfg=dict(type="BN")),
        bbox_head=dict(norm_cfg=dict(type="BN")),
        # Score threshold and detections per image are those of the other recipes, since a chest holds few findings;
        # mmdet has 0.001, 300, and 30000 candidates per level before NMS.
        test_cfg=dict(nms_pre=1000, score_thr=0.05, max_per_img=100),
    )
)
