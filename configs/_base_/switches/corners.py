# The switch `readers`, and boxes with uncertain sides weigh less in the regression loss.
#
# Needs a folder built with --fusion readers, whose COCO files state the `corner_spread` of each box. Not on by default:
# see "Training on what readers agree on" in docs/benchmarks.md for what it changed.
from cxr_mmdet.models.vote_weights_config import with_votes

model = with_votes(_base_.model, corners=True)
