# Faster R-CNN on half a ResNet-18: small findings, 256 px, random weights, for a CPU.
_base_ = [
    "_base_/models/faster_rcnn_r18_fpn_small.py",
    "_base_/datasets/radiographs_small.py",
    "_base_/schedules/adamw_short.py",
    "_base_/default_runtime.py",
]

train_cfg = dict(max_iters=3000, val_interval=500)
switches = ["channels_last"]
