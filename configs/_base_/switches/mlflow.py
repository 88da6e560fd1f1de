# Log to MLflow as well, to mlflow.db in the current folder.
#
# Needs pip install mlflow. `mlflow ui --backend-store-uri sqlite:///mlflow.db` shows the file; MLflow 3 no longer
# writes folders of runs. A server: visualizer.vis_backends.2.tracking_uri=http://host:5000.
visualizer = dict(
    vis_backends=[
        *_base_.visualizer.vis_backends,
        # Few keys as parameters: MLflow bounds their number and length.
        dict(
            type="MLflowVisBackend",
            exp_name="cxr_mmdet",
            tracking_uri="sqlite:///mlflow.db",
            tracked_config_keys=dict(optim_wrapper=True, train_cfg=True, load_from=True),
        ),
    ]
)
