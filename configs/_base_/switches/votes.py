# Weigh a box's loss by the share of its image's readers who drew it.
#
# Options: votes=dict(power=1, min_weight=0, full_weight=1) of the head. In a detector of two stages the sampler hands
# the votes to the RoI head; the RPN goes on proposing what anyone drew.
if "roi_head" in _base_.model:
    model = dict(
        roi_head=dict(bbox_head=dict(type="VoteWeighted" + _base_.model.roi_head.bbox_head.type)),
        train_cfg=dict(rcnn=dict(sampler=dict(type="VoteRandomSampler"))),
    )
else:
    model = dict(bbox_head=dict(type="VoteWeighted" + _base_.model.bbox_head.type))
