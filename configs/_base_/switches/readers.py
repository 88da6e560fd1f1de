# Weigh a box's loss by the probability that a further reader marks it.
#
# Needs a folder built with --fusion readers: the `score` of its COCO files takes the place of the share of readers;
# where a file has none, this is the switch `votes`. Options: votes=dict(power=1, min_weight=0, full_weight=1) of the
# head. The mean score of a training set is well below 1, so full_weight=1/mean gives positives the weight back that
# they lose to negatives.
from cxr_mmdet.models.vote_weights_config import with_votes

model = with_votes(_base_.model)
