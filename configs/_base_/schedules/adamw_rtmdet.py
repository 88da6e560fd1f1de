_base_ = "cosine.py"

# RTMDet's AdamW, without decay of norms and biases, for two images per iteration. mmdet's rate of 0.004 is for 256
# images; AdamW's rate scales by the square root (arXiv:2205.10287): 0.004 · √(2 / 256) = 0.00035. Warm-up, cosine and
# iterations are those of the other recipes. RTMDet's moving average of weights (EMA, momentum 0.0002, hence over some
# 1 / 0.0002 = 5000 iterations) is left out: in 2000 iterations it would hardly leave the starting weights.
optim_wrapper = dict(
    optimizer=dict(_delete_=True, type="AdamW", lr=0.00035, weight_decay=0.05),
    paramwise_cfg=dict(norm_decay_mult=0, bias_decay_mult=0, bypass_duplicate=True),
)
auto_scale_lr = dict(base_batch_size=2)
