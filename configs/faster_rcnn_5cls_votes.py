_base_ = "faster_rcnn_5cls.py"

switches = ["votes"]
