# Keep the backbone's batch norms at pretrained statistics, which small batches blur.
model = dict(backbone=dict(norm_eval=True))
