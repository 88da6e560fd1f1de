# Detectron2's solver defaults (momentum 0.9, weight decay 1e-4) with the reference's learning rate, for one image
# per iteration; --auto-scale-lr multiplies it by the batch size.
optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(type="SGD", lr=0.001, momentum=0.9, weight_decay=0.0001),
)
auto_scale_lr = dict(enable=False, base_batch_size=1)

train_cfg = dict(type="IterBasedTrainLoop", max_iters=2000, val_interval=500)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
