# Draw rare findings more often, by LVIS's repeat factors.
#
# A class in a share f of the images with findings is repeated sqrt(0.2 / f) times where that is above 1. In
# VinBigData's table: Pneumothorax (f = 96/4394) 3.0, Atelectasis 2.2, Consolidation 1.6, ILD 1.5, Calcification 1.4,
# Infiltration 1.2, Nodule/Mass 1.03, and the rest 1.
train_dataloader = dict(sampler=dict(repeat_threshold=0.2))
