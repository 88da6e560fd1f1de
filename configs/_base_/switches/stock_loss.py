# Divide the loss by a step's own positive anchors, as mmdet does.
#
# Measured beside the recipes: see docs/benchmarks.md.
from cxr_mmdet.models.steady_loss import with_stock_loss

model = with_stock_loss(_base_.model)
