# Validate, save and predict with weights averaged over the last 25th of training.
#
# Step t moves the average by 25 / (25 + t) towards the weights, so the average reaches back over about a 25th of the
# steps done, 12 of 300 as 200 of 5000, and never further than 1 / momentum steps. A 10th or a 5th lagged behind runs
# of 300 steps. The running statistics of batch norms are averaged along: those of the last step belong to the last
# step's weights. The checkpoint's `state_dict` holds the average; what training goes on with is its `ema_state_dict`.
default_hooks = dict(
    ema=dict(type="EMAHook", ema_type="MomentumAnnealingEMA", gamma=25, momentum=0.0002, update_buffers=True)
)
