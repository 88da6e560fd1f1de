# Update the weights every 4 iterations: a batch 4 times as large in the same memory.
#
# max_iters and the schedule go on counting iterations, and --auto-scale-lr does not see the larger batch. Batch norms
# see one iteration's images at a time.
optim_wrapper = dict(accumulative_counts=4)
