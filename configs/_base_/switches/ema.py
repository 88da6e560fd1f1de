# Validate, save and predict with weights averaged over the last tenth of training.
#
# Step t moves the average by 10 / (10 + t) towards the weights, so the average reaches back over about a tenth of
# the steps done, in a run of 300 as in one of 5000, and never further than 1 / momentum steps. The running
# statistics of batch norms are averaged along: those of the last step belong to the last step's weights. The
# checkpoint's `state_dict` holds the average; what training goes on with is its `ema_state_dict`.
default_hooks = dict(
    ema=dict(type="EMAHook", ema_type="MomentumAnnealingEMA", gamma=10, momentum=0.0002, update_buffers=True)
)
