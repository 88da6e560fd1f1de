# RetinaNet on half a ResNet-18: small findings, 256 px, random weights, for a CPU.
_base_ = [
    "_base_/models/retinanet_r18_fpn_small.py",
    "_base_/datasets/radiographs_small.py",
    "_base_/schedules/adamw_short.py",
    "_base_/default_runtime.py",
]

# Anchors from 2 · 8 = 16 px, half the usual: nodules measure 10 to 40 px at this size.
model = dict(bbox_head=dict(anchor_generator=dict(octave_base_scale=2)))
train_cfg = dict(max_iters=3000, val_interval=500)
switches = ["channels_last"]
