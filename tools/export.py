"""From a checkpoint to a bundle that predicts without mmdet, checked against torch."""

from cxr_mmdet.cli.export import app

if __name__ == "__main__":
    app()
