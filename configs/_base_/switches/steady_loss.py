# Divide the loss by a running mean of the positive anchors, as Detectron2 does.
from cxr_mmdet.models.steady_loss import with_steady_loss

model = with_steady_loss(_base_.model)
