# Divide the loss by a step's own positive anchors, as mmdet does.
#
# Measured beside the recipes: see docs/benchmarks.md.
from cxr_mmdet.models.steady_loss import split_steady

model = dict(bbox_head=dict(type=split_steady(_base_.model.bbox_head.type)[1]))
