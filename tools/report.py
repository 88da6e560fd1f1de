"""Findings as DICOM structured reports, and back."""

from cxr_mmdet.cli.report import app

if __name__ == "__main__":
    app()
