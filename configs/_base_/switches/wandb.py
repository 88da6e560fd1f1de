# Log to Weights & Biases as well; WANDB_MODE=offline needs no network.
#
# It needs pip install wandb. Options, as wandb.init takes them: visualizer.vis_backends.2.init_kwargs.project, .name,
# .mode.
visualizer = dict(
    vis_backends=[*_base_.visualizer.vis_backends, dict(type="WandbVisBackend", init_kwargs=dict(project="cxr_mmdet"))]
)
