# On a GPU: let cuDNN try its convolutions and keep the fastest for each size of input.
#
# For recipes with few sizes, as the square images of the 5 classes. The 14 classes' images have a size each: every new
# size is tried anew.
env_cfg = dict(cudnn_benchmark=True)
