_base_ = "retina_5cls.py"

# A box weighs by the share of its image's readers who drew it; votes=dict(power=, min_weight=, full_weight=) in the
# head tunes that.
model = dict(bbox_head=dict(type="VoteWeightedRetinaHead"))
