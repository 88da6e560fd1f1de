# Stop after 5 validations without a new best of the metric that picks the checkpoint.
#
# The learning rate's schedule still counts to train_cfg.max_iters: a run that stops has not had its smallest rates.
default_hooks = dict(early_stopping=dict(type="StopEarlyHook", patience=5))
