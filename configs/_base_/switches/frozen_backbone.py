# Train neck and heads only, on a pretrained backbone that stays as it is.
model = dict(backbone=dict(frozen_stages=4, norm_eval=True))
