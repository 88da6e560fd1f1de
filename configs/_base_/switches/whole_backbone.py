# Train every stage and norm of the backbone.
#
# mmdet's base keeps the stem, the first stage and the norms' statistics as pretrained.
model = dict(backbone=dict(frozen_stages=-1, norm_eval=False))
