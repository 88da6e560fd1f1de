"""Launch `config` from a checkout, as MMDetection's tools are."""

from cxr_mmdet.cli.config import app

if __name__ == "__main__":
    app()
