_base_ = "retina_14cls.py"

# The recipe with an abnormality gate, trained on normal and abnormal studies alike; it answers for "No finding", the
# competition's class 14. One factor an image: boxes of studies that look normal fall behind those that do not.
model = dict(type="GatedRetinaNet", gate=dict(source="neck", score_mode="multiply"))
