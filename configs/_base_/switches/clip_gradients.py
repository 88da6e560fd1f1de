# Cut gradients at length 10, so that one odd picture cannot throw the weights away.
optim_wrapper = dict(clip_grad=dict(max_norm=10, norm_type=2))
