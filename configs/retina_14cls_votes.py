_base_ = "retina_14cls.py"

switches = ["votes"]
