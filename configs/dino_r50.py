# DINO with 4 scales, ResNet-50, from COCO weights.
_base_ = [
    "_base_/models/dino_r50.py",
    "_base_/datasets/radiographs.py",
    "_base_/schedules/adamw_dino.py",
    "_base_/default_runtime.py",
]

# DINO R50 with 4 scales, 12 epochs on COCO.
load_from = "https://download.openmmlab.com/mmdetection/v3.0/dino/dino-4scale_r50_8xb2-12e_coco/dino-4scale_r50_8xb2-12e_coco_20221202_182705-55b2bba2.pth"
