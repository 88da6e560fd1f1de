# Draw studies with a finding alone, as the reference and the competition's winners did.
#
# Measured beside the recipes, which learn from normal studies too: see docs/benchmarks.md.
train_dataloader = dict(sampler=dict(normal_share=0.0))
