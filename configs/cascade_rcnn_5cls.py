_base_ = [
    "_base_/models/cascade_rcnn_r50_fpn.py",
    "_base_/datasets/radiographs_5cls.py",
    "_base_/schedules/cosine.py",
    "_base_/default_runtime.py",
]

# mmengine replaces lists whole, so these are the base's three stages with our number of classes.
model = dict(roi_head=dict(bbox_head=[dict(head, num_classes=5) for head in _base_.model.roi_head.bbox_head]))
# Its 0.02 is for 16 pictures: 0.02 / 16 for the one that a step has here.
optim_wrapper = dict(optimizer=dict(lr=0.00125))
train_cfg = dict(max_iters=5000)

# Cascade R-CNN R50-FPN, 20 epochs on COCO. Replace it by --load-from FILE, or by --load-from none for random weights.
load_from = "https://download.openmmlab.com/mmdetection/v2.0/cascade_rcnn/cascade_rcnn_r50_fpn_20e_coco/cascade_rcnn_r50_fpn_20e_coco_bbox_mAP-0.41_20200504_175131-e9872a90.pth"
