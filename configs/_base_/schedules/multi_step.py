_base_ = "sgd.py"

# The alternative to cosine.py: the same warm-up, then a tenth of the learning rate from iteration 200 and a hundredth
# from 1900.
param_scheduler = [
    dict(type="LinearLR", start_factor=0.001, by_epoch=False, begin=0, end=100),
    dict(type="MultiStepLR", milestones=[200, 1900], gamma=0.1, by_epoch=False, begin=0),
]
