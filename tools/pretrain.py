"""Launch `pretrain` from a checkout, as MMDetection's tools are."""

from cxr_mmdet.cli.pretrain import app

if __name__ == "__main__":
    app()
