"""Export radiologists' verdicts from the page as a readers' table."""

from cxr_mmdet.cli.feedback import app

if __name__ == "__main__":
    app()
