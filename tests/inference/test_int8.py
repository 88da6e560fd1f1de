"""Quantisation to eight bits, tested in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


def test_int8():
    """In a process that ran thousands of other tests before, a native thread died during these or soon after."""
    tests = ["-q", "-p", "no:cacheprovider", str(Path(__file__).with_name("int8.py"))]
    done = subprocess.run([sys.executable, "-m", "pytest", *tests], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout
    assert " skipped" not in done.stdout
