_base_ = "retina_phantom.py"

# The gate's own leaf of the demo: prepare the phantoms with normal studies among them (--abnormal-share).
model = dict(type="GatedRetinaNet", gate=dict(source="neck", score_mode="multiply"))
