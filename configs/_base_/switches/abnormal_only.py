# Draw only studies with a finding, as mmdet's recipes for COCO do (filter_empty_gt).
#
# Measured beside the recipes, which learn from normal studies too: see docs/benchmarks.md.
train_dataloader = dict(sampler=dict(normal_share=0.0))
