_base_ = "retina_5cls.py"

# A box weighs by the share of its image's readers who drew it. Options: votes=dict(power=1, min_weight=0, full_weight=1).
model = dict(bbox_head=dict(type="VoteWeightedRetinaHead"))
