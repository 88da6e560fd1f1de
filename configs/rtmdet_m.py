# RTMDet-m, CSPNeXt, from COCO weights.
_base_ = [
    "_base_/models/rtmdet_m.py",
    "_base_/datasets/radiographs.py",
    "_base_/schedules/adamw_rtmdet.py",
    "_base_/default_runtime.py",
]

train_dataloader = dict(batch_size=2)  # the norms of neck and head learn their statistics from the batch

# RTMDet-m, 300 epochs on COCO.
load_from = "https://download.openmmlab.com/mmdetection/v3.0/rtmdet/rtmdet_m_8xb32-300e_coco/rtmdet_m_8xb32-300e_coco_20220719_112220-229f527c.pth"
