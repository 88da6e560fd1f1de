# Update all weights in one kernel.
#
# For a GPU: on a CPU an update is about a hundredth of an iteration.
optim_wrapper = dict(optimizer=dict(fused=True))
