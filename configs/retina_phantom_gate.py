_base_ = "retina_phantom.py"

# Prepare the phantoms with normal studies among them (--abnormal-share).
switches = ["gate"]
