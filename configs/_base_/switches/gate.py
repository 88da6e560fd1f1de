# Train one more head: how likely a radiograph holds any finding; it scales box scores.
#
# It learns from normal and abnormal studies alike, so keep the normal ones, and answers for "No finding", the
# competition's class 14. One factor an image: boxes of studies that look normal fall behind those that do not.
model = dict(type="Gated" + _base_.model.type, gate=dict(source="neck", score_mode="multiply"))
