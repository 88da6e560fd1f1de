"""Launch `browse` from a checkout, as MMDetection's tools are."""

from cxr_mmdet.cli.browse import app

if __name__ == "__main__":
    app()
