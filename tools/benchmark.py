"""Measure speed and memory against the alternative, both in one run."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.cli import app

if __name__ == "__main__":
    app()
