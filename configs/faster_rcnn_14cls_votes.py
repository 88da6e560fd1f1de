_base_ = "faster_rcnn_14cls.py"

switches = ["votes"]
