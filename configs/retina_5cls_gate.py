_base_ = "retina_5cls.py"

# The recipe with an abnormality gate: is there any of the five findings? Prepare the data without --drop-normals. A
# study that holds other findings only is a normal one here.
model = dict(type="GatedRetinaNet", gate=dict(source="neck", score_mode="multiply"))
