"""From radiographs to findings, by a checkpoint or an exported model."""

from cxr_mmdet.cli.predict import app

if __name__ == "__main__":
    app()
