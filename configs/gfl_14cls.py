_base_ = [
    "_base_/models/gfl_r50_fpn.py",
    "_base_/datasets/radiographs_14cls.py",
    "_base_/schedules/cosine.py",
    "_base_/default_runtime.py",
]

model = dict(bbox_head=dict(num_classes=14))
# Its 0.01 is for 16 pictures: 0.01 / 16 for the one that a step has here.
optim_wrapper = dict(optimizer=dict(lr=0.000625))

# GFL R50-FPN, 2x multi-scale on COCO. Replace it by --load-from FILE, or by --load-from none for random weights.
load_from = "https://download.openmmlab.com/mmdetection/v2.0/gfl/gfl_r50_fpn_mstrain_2x_coco/gfl_r50_fpn_mstrain_2x_coco_20200629_213802-37bb1edc.pth"
