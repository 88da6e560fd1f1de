_base_ = "retina_5cls.py"

# Is there any of the five findings? Prepare the data without --drop-normals. A study that holds other findings only
# is a normal one here.
switches = ["gate"]
