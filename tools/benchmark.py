"""Measure speed and memory against the alternative, both in one run."""

from cxr_mmdet.cli.benchmark import app

if __name__ == "__main__":
    app()
