_base_ = "retina_14cls.py"

switches = ["repeat_factor", "normal_share", "gentle_augmentation"]
