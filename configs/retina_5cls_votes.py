_base_ = "retina_5cls.py"

switches = ["votes"]
