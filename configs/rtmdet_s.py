# RTMDet-s, CSPNeXt, from COCO weights.
_base_ = [
    "_base_/models/rtmdet_s.py",
    "_base_/datasets/radiographs.py",
    "_base_/schedules/adamw_rtmdet.py",
    "_base_/default_runtime.py",
]

train_dataloader = dict(batch_size=2)  # the norms of neck and head learn their statistics from the batch

# RTMDet-s, 300 epochs on COCO.
load_from = "https://download.openmmlab.com/mmdetection/v3.0/rtmdet/rtmdet_s_8xb32-300e_coco/rtmdet_s_8xb32-300e_coco_20220905_161602-387a891e.pth"
