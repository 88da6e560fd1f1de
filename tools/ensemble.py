"""Fuse the detections of several models."""

from cxr_mmdet.cli.ensemble import app

if __name__ == "__main__":
    app()
