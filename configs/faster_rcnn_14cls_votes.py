_base_ = "faster_rcnn_14cls.py"

# A box weighs by the share of its image's readers who drew it; votes=dict(power=, min_weight=, full_weight=) in the
# head tunes that.
# The sampler hands the votes to the RoI head; the RPN goes on proposing what anyone drew.
model = dict(
    roi_head=dict(bbox_head=dict(type="VoteWeightedShared2FCBBoxHead")),
    train_cfg=dict(rcnn=dict(sampler=dict(type="VoteRandomSampler"))),
)
