_base_ = "cosine.py"

# RTMDet's AdamW, without decay of norms and biases, for two pictures a step. Its 0.004 is for 256 pictures; AdamW
# scales by the square root (arXiv:2205.10287): 0.004 · √(2 / 256) = 0.00035. Warm-up, cosine and iterations as in the
# other recipes. Its average of weights (EMA, momentum 0.0002: over some 5000 steps) would hardly leave the start.
optim_wrapper = dict(
    optimizer=dict(_delete_=True, type="AdamW", lr=0.00035, weight_decay=0.05),
    paramwise_cfg=dict(norm_decay_mult=0, bias_decay_mult=0, bypass_duplicate=True),
)
auto_scale_lr = dict(base_batch_size=2)
