_base_ = [
    "_base_/models/rtmdet_m.py",
    "_base_/datasets/radiographs_5cls.py",
    "_base_/schedules/adamw_rtmdet.py",
    "_base_/default_runtime.py",
]

model = dict(bbox_head=dict(num_classes=5))
train_dataloader = dict(batch_size=2)  # the norms of its neck and head learn from the batch
train_cfg = dict(max_iters=5000)

# RTMDet-m, 300 epochs on COCO. Replace it by --load-from FILE, or by --load-from none for random weights.
load_from = "https://download.openmmlab.com/mmdetection/v3.0/rtmdet/rtmdet_m_8xb32-300e_coco/rtmdet_m_8xb32-300e_coco_20220719_112220-229f527c.pth"
