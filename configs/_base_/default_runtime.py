_base_ = "mmdet::_base_/default_runtime.py"

custom_imports = dict(
    imports=[
        "cxr_mmdet.datasets",
        "cxr_mmdet.engine",
        "cxr_mmdet.models.gated_detectors",
        "cxr_mmdet.models.data_preprocessor",
        "cxr_mmdet.models.steady_loss",
        "cxr_mmdet.models.vote_weights",
        "cxr_mmdet.models.vote_weights_atss",
    ],
    allow_failed_imports=False,
)

# Everything counts in iterations, as the reference project does. The best checkpoint is the one with the highest
# mAP@.5 on the validation split; three others are kept, so that a kill while saving loses at most one interval.
default_hooks = dict(
    logger=dict(interval=50, log_metric_by_epoch=False),
    checkpoint=dict(
        _delete_=True,
        type="CheckpointHook",
        by_epoch=False,
        interval=500,
        max_keep_ckpts=3,
        save_best="bbox/mAP_50",
        rule="greater",
    ),
)
custom_hooks = [
    dict(type="IterationSeedHook"),
    dict(type="SteadyLossHook"),
    dict(type="NonFiniteHook"),
    dict(type="PretrainedReportHook"),
    dict(type="ResumeHook"),
    dict(type="MissedValidationHook"),
    dict(type="BestSoFarHook"),
    dict(type="CurvesHook"),
    dict(type="ThroughputHook"),
    dict(type="ProgressHook"),
]
log_processor = dict(type="ThroughputLogProcessor", by_epoch=False)
visualizer = dict(vis_backends=[dict(type="LocalVisBackend"), dict(type="TensorboardVisBackend")])

# The part of a training's time that validation may take; None validates as often and on as many images as stated.
val_share = 0.05

randomness = dict(seed=42)
