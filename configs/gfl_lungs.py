# Lungs and other large organs: GFL on half a ResNet-18, 192 px, for a CPU; boxes fit tighter.
_base_ = "retina_lungs.py"

# Backbone, data and schedule of retina_lungs with mmdet's GFL head (Generalized Focal Loss, arXiv 2006.04388): it
# scores a box by how well it fits, so that better boxes come first, and learns each side as a distribution. Losses,
# assigner and NMS are mmdet's; the levels are those of retina_lungs.
model = dict(
    type="GFL",
    bbox_head=dict(
        _delete_=True,
        type="GFLHead",
        num_classes=2,  # two lungs; the prepared folder's number of classes replaces it
        in_channels=128,
        feat_channels=128,
        stacked_convs=2,
        norm_cfg=dict(type="GN", num_groups=32),
        anchor_generator=dict(
            type="AnchorGenerator", ratios=[1.0], octave_base_scale=8, scales_per_octave=1, strides=[16, 32, 64]
        ),
        loss_cls=dict(type="QualityFocalLoss", use_sigmoid=True, beta=2.0, loss_weight=1.0),
        loss_dfl=dict(type="DistributionFocalLoss", loss_weight=0.25),
        reg_max=16,
        loss_bbox=dict(type="GIoULoss", loss_weight=2.0),
    ),
    train_cfg=dict(
        _delete_=True, assigner=dict(type="ATSSAssigner", topk=9), allowed_border=-1, pos_weight=-1, debug=False
    ),
    test_cfg=dict(nms=dict(iou_threshold=0.6)),
)

# A tenth larger than in retina_lungs; an iteration costs an eighth more (docs/benchmarks.md).
train_pipeline = [
    *_base_.load_steps,
    dict(
        type="RandomChoiceResize",
        scales=[
            (width, height) for width in (160, 176, 184, 192, 200, 208) for height in (160, 176, 184, 192, 200, 208)
        ],
        keep_ratio=False,
    ),
    *_base_.augment_steps,
    *_base_.pack_steps,
]
test_pipeline = [
    *_base_.test_load_steps,
    dict(type="Resize", scale=(192, 192), keep_ratio=True),
    *_base_.pack_steps,
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
