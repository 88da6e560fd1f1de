# With gate: teach boxes from abnormal studies alone, and the gate from both kinds.
#
# --with gate,boxes_from_abnormal is what the winners of the competition did with two networks. One image in eight
# drawn is a normal study, for the gate.
from cxr_mmdet.models.gated_detectors import with_boxes_from_abnormal

model = with_boxes_from_abnormal(_base_.model)
train_dataloader = dict(sampler=dict(normal_share=0.125))
