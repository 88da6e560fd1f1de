_base_ = "cosine.py"

# DINO's AdamW, a tenth of the rate for the backbone, gradients clipped to a norm of 0.1, for one image per iteration.
# mmdet's rate of 0.0001 is for 16 images; AdamW's rate scales by the square root (arXiv:2205.10287):
# 0.0001 · √(1 / 16) = 0.000025. Warm-up, cosine and iterations are those of the other recipes.
optim_wrapper = dict(
    optimizer=dict(_delete_=True, type="AdamW", lr=0.000025, weight_decay=0.0001),
    clip_grad=dict(max_norm=0.1, norm_type=2),
    paramwise_cfg=dict(custom_keys=dict(backbone=dict(lr_mult=0.1))),
)
