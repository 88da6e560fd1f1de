"""Score detections against ground truth, both in COCO's format."""

from cxr_mmdet.cli.evaluate import app

if __name__ == "__main__":
    app()
