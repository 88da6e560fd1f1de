"""Launch `test` from a checkout, as MMDetection's tools are."""

from cxr_mmdet.cli.test import app

if __name__ == "__main__":
    app()
