"""Chest X-ray abnormality detection on the MMDetection API."""

__version__ = "0.1.0"
