_base_ = "sgd.py"

# Detectron2's WarmupCosineLR: one half cosine over all iterations, multiplied in its first 100 by a linear warm-up from
# 1/1000. `end` and `T_max` follow train_cfg.max_iters. The reference's steps 200/1900 and gamma 0.1 are inert under
# cosine; multi_step.py is the schedule they name.
param_scheduler = [
    dict(type="LinearLR", start_factor=0.001, by_epoch=False, begin=0, end=100),
    dict(type="CosineAnnealingLR", eta_min=0, by_epoch=False, begin=0),
]
