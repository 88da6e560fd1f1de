# Weigh a box's loss by the share of its image's readers who drew it.
#
# Options: votes=dict(power=1, min_weight=0, full_weight=1) of the head. In a detector of several stages the samplers
# hand the votes to the RoI heads; the RPN goes on proposing what anyone drew.
from cxr_mmdet.models.vote_weights_config import with_votes

model = with_votes(_base_.model)
