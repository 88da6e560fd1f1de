_base_ = []  # before the import: mmengine then reads a plain text config
from cxr_mmdet.engine.mmdet_models import mmdet_model  # noqa: E402

# Stock pyramid, strides 8, 16, 32. Of the stock recipe's augmentation nothing comes along: mosaic, mixup and flips
# paste chests together and mirror the heart. For the same reason its batch augments stay off.
model = mmdet_model("rtmdet/rtmdet_s_8xb32-300e_coco.py")
model.merge(
    dict(
        # The neck joins maps of neighbouring levels, so sides must be multiples of the last stride.
        data_preprocessor=dict(type="GreyDetDataPreprocessor", pad_size_divisor=32, batch_augments=None),
        # SyncBN is for many GPUs. The backbone keeps COCO's statistics, which two pictures a step cannot better; neck
        # and head have no such switch and go on learning theirs.
        backbone=dict(norm_cfg=dict(type="BN"), norm_eval=True, init_cfg=None),
        neck=dict(norm_cfg=dict(type="BN")),
        bbox_head=dict(norm_cfg=dict(type="BN")),
        # Threshold and boxes per image as in the other recipes, since a chest is not crowded (mmdet: 0.001, 300, 30000
        # boxes per level before NMS).
        test_cfg=dict(nms_pre=1000, score_thr=0.05, max_per_img=100),
    )
)
