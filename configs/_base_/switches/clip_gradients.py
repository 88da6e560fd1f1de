# Clip gradients at norm 10, so that one unusual image cannot spoil the weights.
optim_wrapper = dict(clip_grad=dict(max_norm=10, norm_type=2))
