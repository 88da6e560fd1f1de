# All 14 findings on synthetic radiographs at 176 px: the recipe that switches are measured on.
_base_ = "retina_small.py"

# An iteration at 176 px costs half of one at 256 ((176 / 256)² = 0.47), so a few minutes see more radiographs. No
# copies of images with rare findings.
data_root = "work_dirs/demo/prepared"
train_pipeline = [
    *_base_.load_steps,
    dict(
        type="RandomChoiceResize",
        scales=[(width, height) for width in (160, 176, 192) for height in (160, 176, 192)],
        keep_ratio=False,
    ),
    *_base_.augment_steps,
    *_base_.pack_steps,
]
test_pipeline = [
    *_base_.test_load_steps,
    dict(type="Resize", scale=(176, 176), keep_ratio=True),
    *_base_.pack_steps,
]
model = dict(bbox_head=dict(num_classes=14))  # the prepared folder's number of classes replaces it
train_dataloader = dict(dataset=dict(data_root=data_root, pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(data_root=data_root, pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(data_root=data_root)
test_evaluator = val_evaluator
optim_wrapper = dict(optimizer=dict(lr=0.002))
train_cfg = dict(max_iters=600, val_interval=100)
default_hooks = dict(logger=dict(interval=20), checkpoint=dict(interval=100))
