"""Prediction over many files: a resumable run, its journal and its outputs."""
