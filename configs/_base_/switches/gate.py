# Train one more head: how likely a radiograph holds any finding.
#
# It learns from normal and abnormal studies alike, so keep the normal ones, and is the competition's class 14. Beside a
# dense head it reads the classes' highest scores, and box scores are multiplied by p_abnormal ** 0.25; elsewhere it
# reads the neck's features, and box scores stay. Options: gate=dict(source, score_mode, exponent, cut, ...).
from cxr_mmdet.models.gated_detectors import with_gate

model = with_gate(_base_.model)
